"""The comparison with Triton: whom goals compare, who has a turn, what is sent, who is left out."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from benchmarks.arms import Target
from benchmarks.measuring import Row
from benchmarks.models import build_models
from benchmarks.peers.triton import groups, loads, measuring
from benchmarks.peers.triton.arms import DYNAMIC, OURS, STATIC, TWO_REPLICAS, Arm
from benchmarks.peers.triton.comparison import BLOCK
from benchmarks.peers.triton.goals import GOALS, Compared, Goal, bars, compared, verdicts
from benchmarks.peers.triton.groups import Group, Run
from benchmarks.peers.triton.measuring import Sender, Span, in_turns
from benchmarks.peers.triton.report import table
from benchmarks.peers.triton.server import config
from benchmarks.report import README
from benchmarks.special import ARRIVING, MANY
from benchmarks.workloads import DETECTOR, NEW, TINY, Workload
from benchmarks.wrk import Outcome

ONE, _, _ = loads.ONE_SHAPE_LOADS
RATE = Goal("rate", 1.0, 1.05, ONE, (STATIC, DYNAMIC))
P99 = Goal("p99", 1.1, 0.9, ONE, (STATIC, DYNAMIC), value="p99_ms", lower=True)
BESIDE = Goal("beside", 1.3, 1.1, loads.KNOWN_BESIDE_NEW, than=loads.KNOWN_ALONE)


def row(arm: str, rate: float, turn: int = 0, workload: Workload = ONE, **more: float) -> Row:
    place = {"workload": workload.name, "arm": arm, "turn": turn, "repetition": 1}
    return {**place, "requests_per_s": rate, "p99_ms": rate, "errors": 0, **more}


def arm(name: str) -> Arm:
    """One without a process."""
    return Arm(name, Target("", "", list), lambda: None)


def test_a_goal_is_about_the_rival_that_is_harder_to_reach() -> None:
    rows = [row(OURS, 100), row(STATIC, 50), row(DYNAMIC, 200)]

    assert Compared([0.5], DYNAMIC) == compared(RATE, OURS, rows)
    assert Compared([2.0], STATIC) == compared(P99, OURS, rows)


def test_the_rival_is_chosen_once_by_the_median_not_anew_in_each_turn() -> None:
    rows = [row(OURS, 100, turn) for turn in range(3)]
    rows += [row(STATIC, rate, turn) for turn, rate in enumerate((50, 100, 400))]
    rows += [row(DYNAMIC, 80, turn) for turn in range(3)]

    assert Compared([2.0, 1.0, 0.25], STATIC) == compared(RATE, OURS, rows)


def test_ratios_are_taken_within_a_turn_that_both_arms_have() -> None:
    rows = [row(OURS, 100), row(OURS, 100, 1), row(DYNAMIC, 400, 1), row(DYNAMIC, 1, 2)]

    assert Compared([0.25], DYNAMIC) == compared(RATE, OURS, rows)
    assert Compared([]) == compared(RATE, TWO_REPLICAS, rows)


def test_what_comes_beside_a_known_shape_is_compared_with_the_same_arm_alone() -> None:
    rows = [row(OURS, 30, workload=loads.KNOWN_BESIDE_NEW), row(OURS, 20, workload=ONE)]
    rows += [row(OURS, 20, workload=loads.KNOWN_ALONE)]
    rows += [row(DYNAMIC, 90, workload=loads.KNOWN_ALONE)]

    assert Compared([1.5]) == compared(BESIDE, OURS, rows)


def test_verdicts_are_of_each_arm_of_ours_and_of_what_was_measured() -> None:
    rows = [row(OURS, 104), row(TWO_REPLICAS, 50), row(DYNAMIC, 100)]

    _, _, *lines = verdicts(rows).splitlines()

    met = "met | 1.04 | 1.04 to 1.04 | at least 1 | 1.05"
    missed = "**missed** by 50% | 0.50 | 0.50 to 0.50 | at least 1 | 1.05"
    assert [
        f"| {ONE.name} | ours / triton-dynamic | {met} |",
        f"| {ONE.name} | ours-2x1 / triton-dynamic | {missed} |",
    ] == lines
    assert [(OURS, 1.04), (TWO_REPLICAS, 0.5)] == [(bar.arm, bar.ratio) for bar in bars(rows)]


def test_the_table_has_all_errors_and_is_blank_where_an_arm_has_no_number() -> None:
    few = {"workload": loads.MEMORY_FEW.name, "arm": OURS, "resident_mb": 2500.4}
    rows: list[Row] = [{**few, "errors": 1, "turn": turn, "repetition": 1} for turn in range(2)]
    rows.append(row(STATIC, 10, max_ms=7))

    _, _, *lines = table(rows).splitlines()

    assert [
        f"| {ONE.name} | triton-static | 10.0 | 0% |  | 10.0 | 7.0 |  |  |  |  | 0 |",
        f"| {loads.MEMORY_FEW.name} | ours |  |  |  |  |  |  |  |  | 2500 | 2 |",
    ] == lines


def test_every_goal_is_about_loads_that_the_table_shows() -> None:
    for goal in GOALS:
        assert {goal.workload, goal.than or goal.workload} <= set(loads.LOADS), goal.name


def test_who_begins_changes_with_each_turn() -> None:
    taken = in_turns([arm(OURS), arm(STATIC)], 3, lambda one: [row(one.name, 1)])

    assert [(0, OURS), (0, STATIC), (1, STATIC), (1, OURS), (2, OURS), (2, STATIC)] == [
        (one["turn"], one["arm"]) for one in taken
    ]


def test_only_one_arm_is_awake_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    signals: list[tuple[str, str]] = []
    monkeypatch.setattr(
        measuring, "signalled", lambda one, number: signals.append((one.name, number.name))
    )

    list(in_turns([arm(OURS), arm(STATIC)], 1, lambda one: [row(one.name, 1)]))

    wake, stop = "SIGCONT", "SIGSTOP"
    assert [(OURS, wake), (OURS, stop), (STATIC, wake), (STATIC, stop)] == signals


def test_a_server_that_answers_nothing_is_not_taken_for_a_quick_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = Outcome(0, 2.0, 0.0, 0.0, 0.0, 0.0, 0, 0)
    monkeypatch.setattr("benchmarks.wrk.run", lambda *_: nothing)

    found = Sender(arm(OURS), loads.TINY_1, tmp_path).measured(ONE.name, 2)

    assert [0.0, 2000.0, 2000.0] == [found[k] for k in ("requests_per_s", "p99_ms", "max_ms")]


def test_shapes_that_have_to_be_new_were_not_sent_before() -> None:
    checked = set(loads.CHECKED[DETECTOR])

    assert not checked & set(NEW)
    assert not set(loads.PROMOTED.shapes) & {*ARRIVING.shapes[: -len(loads.PROMOTED.shapes)]}
    assert MANY < len(NEW) - len(loads.PROMOTED.shapes)


def test_a_shape_to_promote_comes_as_often_as_the_default_wants_and_then_no_more() -> None:
    order = loads.PROMOTED.order

    assert {loads.REPEATED} == {order.count(index) for index in (0, 1, 1_999)}
    assert list(order) == sorted(order)


@contextlib.contextmanager
def _starting(
    name: str, first: Workload, model: Path, directory: Path, settings: Mapping[str, object]
) -> Iterator[Arm]:
    if name == STATIC:
        raise RuntimeError("no port")
    yield arm(name)


def test_an_arm_that_fails_or_answers_wrongly_is_left_out_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(one: Arm, answers: object) -> None:
        if one.name == DYNAMIC:
            raise RuntimeError("wrong answer")

    monkeypatch.setattr(groups, "started", _starting)
    monkeypatch.setattr(groups, "_check", checked)
    run = Run(build_models(tmp_path, None), Span(1, tmp_path))
    tiny = Group(loads.TINY_1, lambda arms, span: iter([row(one.name, 1) for one in arms]))

    rows = list(run.rows(tiny, [STATIC, DYNAMIC, OURS]))

    assert [OURS] == [one["arm"] for one in rows]
    assert {STATIC: "no port", DYNAMIC: "wrong answer"} == run.left_out


def test_a_model_s_configuration_takes_any_size_and_names_what_the_model_has(
    tmp_path: Path,
) -> None:
    model = build_models(tmp_path, None)[TINY]

    text = config(TINY, model, "dynamic")

    assert 'input { name: "data" data_type: TYPE_FP32 dims: [-1, -1] }' in text
    assert 'output { name: "sum" data_type: TYPE_FP32 dims: [-1, -1] }' in text
    assert 'parameters { key: "compilations" value: { string_value: "dynamic" } }' in text


def test_the_benchmark_s_readme_has_the_block() -> None:
    assert 1 == README.read_text().count(f"<!-- {BLOCK} -->")
    assert 1 == README.read_text().count(f"<!-- /{BLOCK} -->")
