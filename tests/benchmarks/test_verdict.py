"""Goals are judged by the median of the ratios within each repetition."""

import pytest

from benchmarks.measuring import Row
from benchmarks.verdict import GOALS, Goal, judged, reached, verdicts
from benchmarks.workloads import ANYSHAPE, BARE, DOCUMENTED, WORKLOADS

GOAL = Goal("f / c", 3.5, 5, "work", (ANYSHAPE, DOCUMENTED))
LOWER = Goal("memory", 1.15, 1.05, "memory", lower=True)


def row(arm: str, turn: int, rate: float, workload: str = "work") -> Row:
    """The turn in the last of two repetitions."""
    values = {"requests_per_s": rate, "p50_ms": rate}
    return {"workload": workload, "arm": arm, "repetition": 2, "turn": turn, **values}


def test_ratios_are_taken_within_a_turn() -> None:
    rows = [row(ANYSHAPE, 1, 40), row(ANYSHAPE, 2, 90), row(DOCUMENTED, 2, 30)]
    rows += [row(DOCUMENTED, 1, 10), row(BARE, 1, 1), row(ANYSHAPE, 1, 7, "other work")]

    assert [4.0, 3.0] == reached(GOAL, rows, [])
    rows += [{**each, "repetition": 1} for each in rows]
    assert [4.0, 3.0] * 2 == reached(GOAL, rows, [])


def test_a_turn_that_lacks_an_arm_or_got_no_answer_is_left_out() -> None:
    rows = [row(ANYSHAPE, 1, 40), row(ANYSHAPE, 2, 40), row(DOCUMENTED, 2, 0)]

    assert [] == reached(GOAL, rows, [])


def test_times_are_compared_by_their_difference() -> None:
    (goal,) = [goal for goal in GOALS if goal.value == "p50_ms"]
    assert goal.arms is not None
    first, second = (
        row(arm, 1, ms, goal.workload) for arm, ms in zip(goal.arms, (9.5, 8.0), strict=True)
    )

    assert [1.5] == reached(goal, [first, second], [])


def test_special_measurements_bring_their_own_ratio() -> None:
    special = [{"measurement": "memory", "ratio": 1.1}, {"measurement": "other", "ratio": 9.0}]

    assert [1.1] == reached(LOWER, [], special)


@pytest.mark.parametrize(
    ("goal", "numbers", "expected"),
    [
        (GOAL, [5.0], "met, aim reached"),
        (GOAL, [1.0, 3.5, 9.0], "met"),
        (GOAL, [2.8], "**missed** by 20%"),
        (LOWER, [1.05], "met, aim reached"),
        (LOWER, [1.15], "met"),
        (LOWER, [1.38], "**missed** by 20%"),
        (GOAL, [], "not measured"),
    ],
)
def test_the_median_is_judged(goal: Goal, numbers: list[float], expected: str) -> None:
    assert expected == judged(goal, numbers)


def test_every_goal_between_arms_is_about_a_workload_that_both_arms_run() -> None:
    arms = {workload.name: workload.arms for workload in WORKLOADS}
    for goal in GOALS:
        assert goal.arms is None or set(goal.arms) <= set(arms[goal.workload]), goal.name


def test_the_table_has_a_line_for_every_goal() -> None:
    goal = GOALS[1]
    assert goal.arms is not None
    rows = [
        row(arm, 1, rate, goal.workload) for arm, rate in zip(goal.arms, (40.0, 10.0), strict=True)
    ]

    lines = verdicts(rows, []).splitlines()

    assert 2 + len(GOALS) == len(lines)
    assert f"| {goal.name} | met | 4.00 | 4.00 to 4.00 | at least 3.5 | 5 |" in lines
