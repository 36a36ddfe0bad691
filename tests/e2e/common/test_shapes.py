"""What a running server knows about the shapes that it was just asked for, to the last request."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.client import infer
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

PATIENCE_S = 60
PROMOTED = (1, 3, 131, 67)
SUMS = ("requests", "rows", "batches", "unanswered", "evictions")


def knowledge(server: Server, model: str, query: str = "?limit=10000") -> dict[str, Any]:
    reply = httpx.get(f"{server.url}/v2/models/{model}/shapes{query}", timeout=10)
    assert 200 == reply.status_code, reply.text
    answer = reply.json()
    assert isinstance(answer, dict)
    return answer


def of_shape(answer: dict[str, Any], *key: int) -> dict[str, Any]:
    (found,) = [entry for entry in answer["shapes"] if entry["shape"] == {"data": [*key]}]
    assert isinstance(found, dict)
    return found


def picture(rows: int, height: int, width: int) -> dict[str, Any]:
    return {"data": np.zeros((rows, 3, height, width), np.float32)}


def outcome(entry: dict[str, Any]) -> tuple[int, ...]:
    return entry["static"]["requests"], entry["static"]["waited"], entry["dynamic"]["requests"]


def test_requests_are_counted_exactly_by_shape_and_by_what_answered_them(server: Server) -> None:
    """In a blocking model and in a background one that does not get to its own compilation."""
    for model, answered in (("spots-blocking", (5, 1, 0)), ("spots", (0, 0, 5))):
        before = knowledge(server, model)["totals"]
        started = datetime.now(UTC) - timedelta(milliseconds=1)
        for rows in (2, 2, 3, 2, 2):
            infer(server.url, model, picture(rows, 121, 75))
        for _ in range(2):
            infer(server.url, model, picture(2, 75, 121))

        answer = knowledge(server, model)

        entry, turned = of_shape(answer, -1, 3, 121, 75), of_shape(answer, -1, 3, 75, 121)
        assert ("(2,3,121,75)", "(2,3,75,121)") == (entry["warm_up"], turned["warm_up"])
        assert (5, 11, 5, 0) == tuple(entry[name] for name in SUMS[:4])
        assert (2, 4, 2, 0) == tuple(turned[name] for name in SUMS[:4])
        assert answered == outcome(entry)
        kind = "static" if answered[0] else "dynamic"
        assert (5, 5) == (entry[kind]["calls"], entry[kind]["samples"])
        assert 0 < entry[kind]["median_ms_per_row"] <= entry[kind]["median_ms"] < 5000
        assert {kind: 1} == entry["now"]
        assert (1 if kind == "static" else 0) == entry["compile"]["count"]
        first, last = (datetime.fromisoformat(_utc(entry[f"{n}_seen"])) for n in ("first", "last"))
        assert started <= first <= last <= datetime.now(UTC)
        assert before["requests"] + 7 == answer["totals"]["requests"]
        assert before["rows"] + 15 == answer["totals"]["rows"]
        assert before["shapes"] + 2 == answer["totals"]["shapes"]


def _utc(text: str) -> str:
    assert text.endswith("Z")
    return text.removesuffix("Z") + "+00:00"  # what Python 3.10 reads


@pytest.mark.fresh
def test_a_shape_that_keeps_coming_is_seen_to_change_over(server: Server) -> None:
    """After eight requests it is compiled, and after some more it answers where it is faster."""
    for _ in range(8):
        infer(server.url, "spots", picture(1, 131, 67))
    before, give_up = 8, time.monotonic() + 2 * PATIENCE_S  # one shape a minute is tried
    while not of_shape(knowledge(server, "spots"), *PROMOTED)["compile"]["count"]:
        infer(server.url, "spots", picture(1, 131, 67))
        before += 1
        assert time.monotonic() < give_up
    state = _eventually(server, lambda entry: entry["compile"]["count"])["now"]
    for _ in range(4):
        infer(server.url, "spots", picture(1, 131, 67))

    entry = of_shape(knowledge(server, "spots"), *PROMOTED)

    # The shape may have changed over between the last look and the request after it.
    expected = {
        "static": [(4, 0, before), (5, 0, before - 1)],
        "dynamic_suffices": [(0, 0, before + 4)],
    }
    ((kind, count),) = state.items()
    assert 1 == count
    assert outcome(entry) in expected[kind]
    assert entry["differing"] is None
    assert (1, kind == "dynamic_suffices") == tuple(
        entry["compile"][name] for name in ("count", "not_worth_it")
    )
    assert 0 < entry["compile"]["last_ms"] == entry["compile"]["total_ms"]


def _eventually(server: Server, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    deadline = time.monotonic() + PATIENCE_S
    while not condition(entry := of_shape(knowledge(server, "spots"), *PROMOTED)):
        assert time.monotonic() < deadline, entry
        time.sleep(0.05)  # nothing to wait on: the compilation is in another process
    return entry


def test_the_answer_is_one_whole_whatever_the_limit(server: Server) -> None:
    for width in (11, 12, 13):
        infer(server.url, "spots", picture(1, 141, width))
    whole = knowledge(server, "spots")
    assert {"advice", "others", "settings", "shapes", "totals"} <= whole.keys()
    assert {"max_compiled_shapes": 16, "promote_after": 8} == whole["settings"]
    for limit in (0, 2):
        answer = knowledge(server, "spots", f"?limit={limit}")
        assert limit == len(answer["shapes"])
        assert whole["totals"] == answer["totals"]
        for name in SUMS:
            parts = [*answer["shapes"], answer["others"]]
            assert answer["totals"][name] == sum(part[name] for part in parts)
    requests = [entry["requests"] for entry in whole["shapes"]]
    assert sorted(requests, reverse=True) == requests
    assert min(100, len(requests)) == len(knowledge(server, "spots", "")["shapes"])


def test_a_warm_up_is_compiled_and_no_request(server: Server) -> None:
    entry = of_shape(knowledge(server, "slow"), 1, 1, 4)
    before = entry["requests"]
    assert (1, 0) == (entry["compile"]["count"], entry["static"]["waited"])
    infer(server.url, "slow", {"data": np.ones((1, 1, 4), np.float32)})
    assert before + 1 == of_shape(knowledge(server, "slow"), 1, 1, 4)["requests"]


def test_several_inputs_are_told_by_their_names(server: Server) -> None:
    inputs = [
        {"name": "numbers", "datatype": "INT64", "shape": [2, 3], "data": [[1, 2, 3]] * 2},
        {"name": "words", "datatype": "BYTES", "shape": [2], "data": ["a", "b"]},
    ]
    reply = httpx.post(f"{server.url}/v2/models/echo/infer", json={"inputs": inputs}, timeout=60)
    assert 200 == reply.status_code, reply.text
    shapes = knowledge(server, "echo")["shapes"]
    written = {"numbers": "(2,3)", "words": "(2)"}
    (entry,) = [each for each in shapes if each["warm_up"] == written]
    assert {"numbers": [-1, 3], "words": [-1]} == entry["shape"]


def test_what_the_model_takes_does_not_change_with_the_shapes(server: Server) -> None:
    paths = [f"{server.url}/v2/models/spots{suffix}" for suffix in ("", "/config")]
    before = [httpx.get(path).content for path in paths]
    infer(server.url, "spots", picture(1, 151, 57))
    knowledge(server, "spots")
    assert before == [httpx.get(path).content for path in paths]


@pytest.mark.parametrize(
    ("path", "status", "expected"),
    [
        ("spots/versions/1/shapes?limit=1", 200, None),
        ("nothing/shapes", 404, "model 'nothing' is not served here"),
        ("spots/versions/7/shapes", 404, "model 'spots' has no version '7', known: 1"),
        ("missing/shapes", 503, "model 'missing' is not available"),
        (
            "spots/shapes?limit=-3",
            400,
            "parameter 'limit' is '-3', not a number from 0 to 10000",
        ),
    ],
)
def test_what_cannot_be_told(server: Server, path: str, status: int, expected: str | None) -> None:
    reply = httpx.get(f"{server.url}/v2/models/{path}", timeout=10)
    assert status == reply.status_code, reply.text
    if expected is None:
        assert {"spots", "1"} == {reply.json()["model_name"], reply.json()["model_version"]}
    else:
        assert expected in reply.json()["error"]
