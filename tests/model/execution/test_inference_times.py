import pytest

from deployments.model.execution.inference_times import InferenceTimes


def test_what_nobody_knows_costs_one_request() -> None:
    times = InferenceTimes()
    assert 1 == times.building_cost(2) == times.compile_cost(0.0, 2)


def test_building_costs_what_it_adds() -> None:
    times = InferenceTimes()
    times.note(0.01, built=False)
    times.note(0.05, built=True)
    assert 4 == times.building_cost(1)
    assert 8 == times.building_cost(2)


def test_a_compilation_is_counted_in_requests_that_build_nothing_where_there_were_any() -> None:
    times = InferenceTimes()
    times.note(0.05, built=True)
    assert 2 == times.compile_cost(0.1, 1)
    times.note(0.025, built=False)
    assert 4 == times.compile_cost(0.1, 1)


@pytest.mark.parametrize("built", [False, True])
def test_the_last_requests_count_most(built: bool) -> None:
    times = InferenceTimes()
    for seconds in [1.0] * 10 + [0.001] * 200:
        times.note(seconds, built=built)
    assert 16 == times.compile_cost(0.016, 1)
