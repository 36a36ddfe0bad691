"""The orders of shapes are the same everywhere, and new shapes are new."""

from collections import Counter
from itertools import pairwise

from benchmarks.shapes import new_shapes, zipf_order
from benchmarks.workloads import NEW, ONE, WORKLOADS, ZIPF_SHAPES


def test_new_shapes_come_once_each_and_never_in_another_order() -> None:
    shapes = new_shapes()

    assert 177 * 177 == len(shapes) == len(set(shapes))
    assert shapes == new_shapes()
    assert all((1, 3) == s[:2] and 224 <= s[2] <= 400 and 224 <= s[3] <= 400 for s in shapes)


def test_new_shapes_are_mixed() -> None:
    """Neighbours that differ by one pixel would flatter what is cached."""
    steps = [abs(a[2] - b[2]) + abs(a[3] - b[3]) for a, b in pairwise(new_shapes())]

    assert 100 < sum(steps) / len(steps)


def test_the_shape_that_a_server_starts_with_is_not_among_the_new_ones() -> None:
    assert not set(ONE) & set(NEW)


def test_the_zipf_order_is_always_the_same_and_follows_the_law() -> None:
    order = zipf_order(50, 20_000)
    counts = Counter(order)

    assert order == zipf_order(50, 20_000)
    assert [0, 1, 2] == [index for index, _ in counts.most_common(3)]
    assert 2**1.1 * 0.9 < counts[0] / counts[1] < 2**1.1 * 1.1
    assert 50 == len(counts)


def test_the_second_half_of_an_unseen_order_has_none_of_the_first_half() -> None:
    (unseen,) = [workload for workload in WORKLOADS if workload.unseen]
    half = len(unseen.order) // 2

    assert not set(unseen.order[:half]) & set(unseen.order[half:])


def test_every_order_stays_within_its_shapes() -> None:
    for workload in WORKLOADS:
        assert set(range(len(workload.shapes))) == set(workload.order), workload.name
    (zipf,) = (workload for workload in WORKLOADS if workload.name.startswith("Zipf"))
    assert ZIPF_SHAPES == len(zipf.shapes)
