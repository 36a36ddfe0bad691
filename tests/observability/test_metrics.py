"""The declared metrics, and their reports to Ray. Ray's export: tests/e2e."""

import asyncio
import re
from typing import Any

import pytest

from deployments import timing
from deployments.observability import metrics as telemetry
from deployments.observability.metrics import (
    COMPILED_SHAPES,
    HANDOFF_SECONDS,
    METRICS,
    QUEUE_SECONDS,
    REJECTED,
    REQUESTS,
    SHARED_MEMORY,
    SHARED_MEMORY_USED,
    Metric,
    RayTelemetry,
)
from deployments.transport.arena import Arena
from tests.e2e.live import until


class RayMetric:
    """Keeps the calls that one of Ray's metrics gets."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.calls: list[tuple[str, float, dict[str, str]]] = []

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.calls.append(("inc", value, tags))

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.calls.append(("set", value, tags))

    def observe(self, value: float, tags: dict[str, str]) -> None:
        self.calls.append(("observe", value, tags))


class Handed(RayTelemetry):
    def to_ray(self, metric: Metric) -> list[tuple[str, float, dict[str, str]]]:
        calls: list[Any] = self._metrics[metric].calls
        return calls


@pytest.fixture
def handed(monkeypatch: pytest.MonkeyPatch) -> Handed:
    monkeypatch.setattr(telemetry, "_ray_metric", RayMetric)
    return Handed()


def test_the_names_differ_and_are_prometheuss() -> None:
    names = [metric.exported_name for metric in METRICS]

    assert len(names) == len(set(names)) == 17
    assert all(re.fullmatch(r"ray_anyshape_[a-z_]+", name) for name in names)
    assert {m.exported_name for m in METRICS if m.kind == "counter"} == {
        name for name in names if name.endswith("_total")
    }


def test_histograms_have_boundaries_that_grow_and_others_none() -> None:
    for metric in METRICS:
        assert (metric.kind == "histogram") == bool(metric.boundaries)
        assert list(metric.boundaries) == sorted(set(metric.boundaries))
        assert all(boundary > 0 for boundary in metric.boundaries)


def test_counts_are_added_up_until_they_are_handed_over(handed: Handed) -> None:
    labels = ("m", "1", "kserve_http", "200")
    for _ in range(3):
        handed.count(REQUESTS, *labels)
    handed.count(REQUESTS, "m", "1", "kserve_http", "400", by=2)
    assert [] == handed.to_ray(REQUESTS)

    handed.hand_over()
    handed.hand_over()  # nothing a second time

    tags = dict(zip(REQUESTS.labels, labels, strict=True))
    assert [("inc", 3, tags), ("inc", 2, {**tags, "code": "400"})] == handed.to_ray(REQUESTS)


def test_observed_values_are_reported_in_order_and_once(handed: Handed) -> None:
    values = [0.001 * number for number in range(2 * telemetry._AT_ONCE + 1)]
    for value in values:
        handed.observe(QUEUE_SECONDS, value, "m")
    assert [] == handed.to_ray(QUEUE_SECONDS)

    handed.hand_over()
    handed.hand_over()

    assert [("observe", v, {"model": "m"}) for v in values] == handed.to_ray(QUEUE_SECONDS)


async def test_many_observations_leave_turns_of_the_loop_to_others(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "METRICS_HANDED_OVER_S", 0.001)
    for _ in range(10 * telemetry._AT_ONCE):
        handed.observe(QUEUE_SECONDS, 0.25, "m")
    handed.start()

    seen = {0}
    while len(handed.to_ray(QUEUE_SECONDS)) < 10 * telemetry._AT_ONCE:
        await asyncio.sleep(0)
        seen.add(len(handed.to_ray(QUEUE_SECONDS)))
    await handed.close()

    assert {telemetry._AT_ONCE * turn for turn in range(11)} == seen


def test_gauges_are_set_to_what_is_read_at_every_handing_over(handed: Handed) -> None:
    held = [3]
    handed.watch(COMPILED_SHAPES, lambda: held[0], "m")

    handed.hand_over()
    held[0] = 2
    handed.hand_over()

    calls = [("set", 3, {"model": "m"}), ("set", 2, {"model": "m"})]
    assert calls == handed.to_ray(COMPILED_SHAPES)


@pytest.mark.skipif(not Arena.supported(), reason="there is no shared memory here")
def test_the_memory_in_use_is_that_of_the_arena(handed: Handed) -> None:
    arena = Arena(1 << 20)
    handed.watch_memory(arena)
    space = arena.allocate(1000)

    handed.hand_over()
    del space
    handed.hand_over()

    assert [("set", 1024, {}), ("set", 0, {})] == handed.to_ray(SHARED_MEMORY_USED)
    assert ("set", (1 << 20) - 4096, {}) == handed.to_ray(SHARED_MEMORY)[0]


async def test_pending_values_are_reported_now_and_then_and_at_the_end(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "METRICS_HANDED_OVER_S", 0.001)
    handed.start()
    handed.start()
    handed.count(REJECTED, "m", "body_bytes")
    await until(lambda: bool(handed.to_ray(REJECTED)))

    handed.count(REJECTED, "m", "rank")
    await handed.close()

    tags = {"model": "m", "limit": "rank"}
    assert ("inc", 1, tags) == handed.to_ray(REJECTED)[-1]
    assert 2 == len(handed.to_ray(REJECTED))


async def test_a_gauge_that_cannot_be_read_does_not_end_the_handing_over(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "METRICS_HANDED_OVER_S", 0.001)
    reads = iter([None, 1.0])

    def read() -> float:
        value = next(reads, 1.0)
        if value is None:
            raise RuntimeError
        return value

    handed.watch(COMPILED_SHAPES, read, "m")
    handed.start()
    await until(lambda: bool(handed.to_ray(COMPILED_SHAPES)))
    await handed.close()


async def test_what_cannot_be_handed_over_holds_nothing_else_back(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "METRICS_HANDED_OVER_S", 0.001)
    handed.watch(COMPILED_SHAPES, lambda: 1 / 0, "m")
    for _ in range(3 * telemetry._AT_ONCE):
        handed.observe(QUEUE_SECONDS, 0.25, "m")
    handed.observe(HANDOFF_SECONDS, 0.5, "m", "one label too many")
    handed.start()
    await until(lambda: not handed._observed)
    handed.observe(QUEUE_SECONDS, 0.25, "m")
    await handed.close()

    assert 3 * telemetry._AT_ONCE + 1 == len(handed.to_ray(QUEUE_SECONDS))
    assert [] == handed.to_ray(HANDOFF_SECONDS)


async def test_under_a_flood_counts_are_handed_over_and_no_more_gathers_than_in_a_round(
    handed: Handed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "METRICS_HANDED_OVER_S", 0.001)
    handed.start()
    gathered = []
    for _ in range(20 * telemetry._TURNS):
        for _ in range(3 * telemetry._AT_ONCE):
            handed.observe(QUEUE_SECONDS, 0.25, "m")
        handed.count(REJECTED, "m", "rank")
        gathered.append(len(handed._observed))
        await asyncio.sleep(0)
    await handed.close()

    assert len(handed.to_ray(REJECTED)) >= 5
    assert max(gathered[10 * telemetry._TURNS :]) <= 10 * telemetry._TURNS * telemetry._AT_ONCE
