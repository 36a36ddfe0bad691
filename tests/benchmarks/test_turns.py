"""Arms take turns with the load, and are gone afterwards."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import psutil
import pytest

from benchmarks import turns
from benchmarks.arms import SERVING, Target
from benchmarks.measuring import Plan
from benchmarks.models import build_models
from benchmarks.turns import OutOfShapes, repetition
from benchmarks.workloads import BARE, CAREFUL, RELOAD, WORKLOADS, Workload
from tests.waiting import until

pytestmark = pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk")
(TINY,) = (workload for workload in WORKLOADS if workload.name.startswith("tiny"))
FEW_CLIENTS = replace(TINY, clients=2, arms=(BARE, CAREFUL, RELOAD), turn_s=1)


@pytest.fixture
def plan(tmp_path: Path) -> Plan:
    return Plan([FEW_CLIENTS], (BARE, CAREFUL, RELOAD), build_models(tmp_path, None), 2, tmp_path)


def test_arms_take_turns_and_only_one_runs(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[psutil.Process] = []

    @contextmanager
    def starting(arm: str, model: Path, first: Workload, directory: Path) -> Iterator[Target]:
        with SERVING[arm](model, first, directory) as target:
            started.extend(target.processes())
            yield target

    arms = {arm: partial(starting, arm) for arm in (CAREFUL, RELOAD)}
    monkeypatch.setattr(turns, "SERVING", arms)
    rows = []
    for row in repetition(plan):
        rows.append(row)
        assert 2 == len(started)
        until(lambda: all(process.status() == psutil.STATUS_STOPPED for process in started))
    order = [BARE, CAREFUL, RELOAD, RELOAD, CAREFUL, BARE]
    assert [*zip(order, (0, 0, 0, 1, 1, 1), strict=True)] == [(r["arm"], r["turn"]) for r in rows]
    assert all(row["requests_per_s"] > 0 for row in rows)
    assert not any(row["errors"] for row in rows)
    assert not any(process.is_running() for process in started)


def test_a_shape_that_is_to_be_new_never_comes_again(plan: Plan) -> None:
    unseen = replace(FEW_CLIENTS, unseen=True, order=(0,) * 5, arms=(CAREFUL,))
    with pytest.raises(OutOfShapes, match="5 shapes do not suffice"):
        list(repetition(replace(plan, workloads=[unseen])))
