"""Models that are difficult in one way each, served: the answers are OpenVINO's, bit for bit.

The operations are such that every compilation rounds alike, or the values are whole numbers, whose
sums are exact in any order.
"""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import openvino as ov
import pytest

from deployments.tensors import BF16, BYTES, NUMPY_DTYPES, Array, Tensor
from tests.e2e.server import Server
from tests.e2e.small_models import Request, check_same, check_together, serving, sizes
from tests.e2e.wire import FORMS, Form, Refused, asked, request_body
from tests.model import models
from tests.model.loading import tensor

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

MODELS: dict[str, ov.Model] = {
    "constant-target": models.fixed_batch(),
    "fixed-batch": models.two_rows(),
    "ranks": models.scaled(),
    "scalar-input": models.scaled_by_scalar(),
    "only-scalars": models.add_one(()),
    "empty": models.positive_places(),
    "strings": models.strings_and_lengths(),
    "tokens": models.embeddings(),
    "open": models.add_one((-1, ov.Dimension(2, 8), 4)),
    "many-outputs": models.outputs_of_all_kinds(),
    "datatypes": models.every_datatype(),
    "never-open": models.refuses_open_dimensions(),
    "by-values": models.to_shape(),
    "state": models.running_total(),
}
SETTINGS: dict[str, dict[str, Any]] = {
    "ranks": {"batching": {"stacking": "always"}},
    "datatypes": {"batching": {"stacking": "always"}},
    "strings": {"batching": {"stacking": "always"}},
    "state": {"batching": {"stacking": "always"}},
    "tokens": {"batch_size": 1, "reshape": "blocking"},
    "by-values": {"shape": {"x": "(6)", "shape": "(2)"}},
}


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def whole(*shape: int) -> Array:
    return np.random.default_rng(1).integers(-999, 999, shape).astype(np.float32)


def x(values: Any) -> Request:
    return [tensor(values)]


def scaled(*shape: int) -> Request:
    return [tensor(floats(*shape)), tensor(floats(*shape[:2], seed=1), name="scale")]


def tokens(values: list[int]) -> Request:
    return [tensor([values], "INT64", "tokens")]


def scaled_by(scale: float, *shape: int) -> Request:
    return [tensor(floats(*shape)), tensor(scale, name="scale")]


def words(values: list[list[bytes]], columns: int) -> Request:
    shape = (len(values), columns)
    return [Tensor("words", BYTES, shape, [word for row in values for word in row])]


def every_datatype(rows: int, columns: int) -> Request:
    """Among the values are the ends of what the datatype holds and the CPU plugin keeps."""
    count = rows * columns
    given = []
    for datatype in models.DATATYPES:
        if datatype == BYTES:
            strings = [(b"", b"a", "ø".encode(), b"\0a")[n % 4] for n in range(count)]
            given.append(Tensor(datatype, BYTES, (rows, columns), strings))
            continue
        dtype = NUMPY_DTYPES[datatype]
        values: list[float] = [0, 1.5, -123.25, 2.0**-9]
        if datatype == BF16:
            values = [0x0000, 0x3F80, 0xC2F7, 0x0001]
        elif dtype.kind == "b":
            values = [False, True]
        elif dtype.kind in "iu":
            end = min(np.iinfo(dtype).max, 2**31)
            values = [0, end - 1, 7, max(np.iinfo(dtype).min, -(2**31))]
        array = np.resize(np.array(values, dtype), (rows, columns))
        given.append(tensor(array, datatype, datatype))
    return given


def reshaped(*shape: int) -> Request:
    return [tensor(range(6)), tensor(shape, "INT64", "shape")]


REQUESTS: dict[str, list[Request]] = {
    "constant-target": [x(floats(4, 6))],
    "fixed-batch": [x(floats(2, 4)), x(floats(2, 1)), x(floats(2, 9))],
    "ranks": [scaled(1, 3, 4), scaled(3, 3, 4), scaled(2, 5, 4), scaled(2, 3, 0)],
    "scalar-input": [scaled_by(0.3, 1, 4), scaled_by(-7.7, 3, 4), scaled_by(1, 2, 5)],
    "only-scalars": [x(0.1), x(-2)],
    "empty": [x([-1] * 6), x([]), x([0, 1, 0, 2]), x([1] * 6)],
    "strings": [
        words([["straße".encode(), b"", b"\0z"]], 3),
        words([[b"one"], [b"three"], [b""]], 1),
        words([[b"long" * 5000, b"short"]], 2),
    ],
    "tokens": [tokens([3, 1, 4]), tokens([99])],
    "open": [x(floats(1, 2, 4)), x(floats(3, 8, 4)), x(floats(0, 5, 4))],
    "many-outputs": [x(whole(1, 4)), x(whole(4, 4)), x(whole(2, 6))],
    "datatypes": [every_datatype(1, 4), every_datatype(3, 4), every_datatype(2, 5)],
    "never-open": [x(whole(1, 8, 8, 8)), x(whole(1, 8, 16, 9)), x(whole(2, 8, 8, 8))],
    "by-values": [reshaped(2, 3), reshaped(6, 1)],
    "state": [x(floats(1, 4)), x(floats(3, 4))],
}
CASES = [(name, number) for name, requests in REQUESTS.items() for number in range(len(requests))]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(MODELS, SETTINGS, tmp_path_factory.mktemp("kinds")) as server:
        yield server


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
                target = f"/v2/models/{name}/infer"
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
        ("open", {"x": [-1, -1, -1]}),
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
        ("open", x(floats(1, 9, 4)), ["'x'", "[1,9,4]", "dimension 1 is 9", "[-1,2:8,-1]"]),
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
