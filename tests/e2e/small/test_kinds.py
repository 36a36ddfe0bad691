"""Models that are difficult in one way each, served: the answers are OpenVINO's, bit for bit."""

import asyncio

import httpx
import numpy as np
import pytest

from tests.e2e.server import Server
from tests.e2e.small.answers import Request, check_same, check_together, sizes
from tests.e2e.small.kinds import (
    MODELS,
    REQUESTS,
    floats,
    reshaped,
    scaled,
    scaled_by,
    whole,
    words,
    x,
)
from tests.e2e.wire import FORMS, Form, Refused, asked, request_body
from tests.model.loading import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

CASES = [(name, number) for name, requests in REQUESTS.items() for number in range(len(requests))]


@pytest.mark.parametrize(("name", "number"), CASES)
def test_every_kind_answers_over_every_protocol_as_openvino_does(
    server: Server, name: str, number: int
) -> None:
    check_same(server, name, MODELS[name], REQUESTS[name][number])


@pytest.mark.parametrize("name", MODELS)
async def test_requests_that_come_together_answer_as_alone(server: Server, name: str) -> None:
    await check_together(server, name, MODELS[name], REQUESTS[name])


async def test_shapes_and_values_that_fail_leave_what_comes_with_them_alone(
    server: Server,
) -> None:
    """OpenVINO answers what comes after them wrongly, or writes where it should not."""
    fail = {"many-outputs": x(whole(1, 3)), "by-values": reshaped(4, 4)}
    pids = {name: server.replica_pids(name) for name in fail}
    over = asyncio.Event()

    async def send_failing(name: str) -> int:
        refused = 0
        body, headers = request_body(fail[name], binary=True)
        async with httpx.AsyncClient(base_url=server.url, timeout=50) as client:
            while not over.is_set():
                target = f"{server.path(name)}/infer"
                answer = await client.post(target, content=body, headers=headers)
                assert answer.status_code in (400, 500)
                refused += 1
        return refused

    senders = [asyncio.create_task(send_failing(name)) for name in fail for _ in range(2)]
    requests = {"many-outputs": [x(whole(1, 4)), x(whole(500, 4)), x(whole(20, 6))]}
    requests["by-values"] = [reshaped(2, 3), reshaped(6, 1)]
    for name in fail:
        await check_together(server, name, MODELS[name], requests[name], times=40)
    over.set()
    assert all(await asyncio.gather(*senders))
    assert pids == {name: server.replica_pids(name) for name in fail}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("constant-target", {"x": [4, 6]}),
        ("fixed-batch", {"x": [2, -1]}),
        ("ranks", {"x": [-1, -1, -1], "scale": [-1, -1]}),
        ("scalar-input", {"x": [-1, -1], "scale": []}),
        ("only-scalars", {"x": []}),
        ("empty", {"x": [-1]}),
        ("strings", {"words": [-1, -1]}),
        ("bounded", {"x": [-1, -1, -1]}),
        ("never-open", {"x": [-1, 8, -1, -1]}),
    ],
)
def test_the_metadata_tell_which_dimensions_are_open(
    server: Server, name: str, expected: dict[str, list[int]]
) -> None:
    assert expected == sizes(server, name)


def test_outputs_with_and_without_rows_are_told_apart(server: Server) -> None:
    expected = {
        "rows": [-1, -1],
        "columns": [-1, -1],
        "halves": [-1, 2],
        "mean": [-1],
        "constant": [3],
    }
    assert expected == sizes(server, "many-outputs", "outputs")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "request_", "words"),
    [
        ("constant-target", x(floats(2, 6)), ["'x'", "[2,6]", "dimension 0 is 2", "[4,6]"]),
        ("constant-target", x(floats(4, 2, 3)), ["'x'", "[4,2,3]", "3 dimensions", "2 [4,6]"]),
        ("fixed-batch", x(floats(3, 4)), ["'x'", "[3,4]", "dimension 0 is 3", "[2,-1]"]),
        ("bounded", x(floats(1, 9, 4)), ["'x'", "[1,9,4]", "dimension 1 is 9", "[-1,2:8,-1]"]),
        ("scalar-input", scaled_by(1, 1, 4)[:1], ["lacks input 'scale'"]),
        (
            "scalar-input",
            [*scaled_by(1, 1, 4)[:1], tensor([1], name="scale")],
            ["'scale'", "1 dimensions [1]", "0 []"],
        ),
        ("strings", words([], 3), ["'words'", "[0,3]", "dimension 0 is 0", "[1:,1:]"]),
        ("strings", words([[]], 0), ["'words'", "[1,0]", "dimension 1 is 0", "[1:,1:]"]),
        ("ranks", [*scaled(2, 3, 4)[:1], *scaled(3, 3, 4)[1:]], ["[2,3,4]", "[3,3]"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_words(
    server: Server, name: str, request_: Request, words: list[str], form: Form
) -> None:
    with pytest.raises(Refused) as refusal:
        asked(server, name, request_, form)
    assert refusal.value.status in (400, "INVALID_ARGUMENT")
    for word in words:
        assert word in refusal.value.words


def test_strings_are_bytes_to_the_end(server: Server) -> None:
    """Explicitly: a direct call by way of numpy loses zero bytes at the ends."""
    given = words([[b"a\0", b"\0\0", b"\xff\xfe", b""]], 4)
    for form in ("binary", "grpc"):
        same, lengths = asked(server, "strings", given, form)
        assert given[0] == same
        assert [[2, 2, 2, 0]] == np.asarray(lengths.data).tolist()


def test_a_shape_without_elements_leaves_the_model_at_work(server: Server) -> None:
    """Explicitly: a direct call at a fixed shape without elements would end this process."""
    before = server.replica_pids("tokens")
    for form in FORMS:
        for _ in range(10):
            (y,) = asked(server, "tokens", [tensor([[]], "INT64", "tokens")], form)
            assert (1, 0, 4) == y.shape
    assert before == server.replica_pids("tokens")
