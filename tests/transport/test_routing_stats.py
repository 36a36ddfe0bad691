import pytest

from deployments.transport.routing_stats import RoutingStats, in_requests, together


def test_facts_come_back_from_what_serve_passes_on() -> None:
    facts = RoutingStats(frozenset({3, 2**64 - 1}), 8, 16.0, ready=True)
    assert facts == RoutingStats.of_stats(facts.as_stats())


def test_of_a_replica_that_has_not_told_anything_little_is_known() -> None:
    assert RoutingStats() == RoutingStats.of_stats({})


@pytest.mark.parametrize(
    ("compile_s", "request_s", "streams", "requests"),
    [
        (0.06, 0.004, 1, 16),
        (0.06, 0.004, 2, 32),
        (0.05, 0.004, 1, 16),  # 12.5
        (60.0, 0.001, 4, 64),  # no more, so that a hot shape is spread in the end
        (0.001, 0.1, 1, 1),
        (0.0, 0.004, 2, 1),  # the dynamic compilation answers at once
        (0.06, 0.0, 2, 1),  # nothing was measured yet
    ],
)
def test_a_compilation_in_requests_is_a_power_of_two(
    compile_s: float, request_s: float, streams: int, requests: int
) -> None:
    assert requests == in_requests(compile_s, request_s, streams)


def test_of_several_versions_shapes_the_dearest_compilation_and_one_ready_count() -> None:
    one = RoutingStats(frozenset({1, 2}), 4, 8.0)
    other = RoutingStats(frozenset({2, 3}), 2, 16.0, ready=True)
    assert RoutingStats(frozenset({1, 2, 3}), 4, 16.0, ready=True) == together([one, other])
    assert RoutingStats() == together([])
