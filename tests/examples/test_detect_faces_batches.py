"""Which pictures the face client sends together."""

from collections.abc import Iterator

from examples.detect_faces import Picture, batches
from tests.examples.scenes import picture


def names(groups: Iterator[list[Picture]]) -> list[str]:
    return ["".join(one.path.name for one in group) for group in groups]


class TestBatches:
    def test_joins_pictures_of_equal_size_only(self) -> None:
        sizes = {"a": (8, 4), "b": (4, 8), "c": (8, 4), "d": (8, 4), "e": (4, 8), "f": (8, 4)}
        pictures = [picture(name, *size) for name, size in sizes.items()]
        assert names(batches(pictures, 2)) == ["ac", "be", "df"]

    def test_sends_incomplete_batches_at_the_end(self) -> None:
        pictures = [picture("a", 8, 4), picture("b", 4, 8), picture("c", 8, 4)]
        assert names(batches(pictures, 3)) == ["ac", "b"]

    def test_holds_a_bounded_number_of_pictures_back(self) -> None:
        taken = 0

        def endless() -> Iterator[Picture]:
            nonlocal taken
            while True:
                taken += 1
                yield picture("x", taken, 1)

        assert len(next(batches(endless(), 2))) == 1
        assert taken == 64

    def test_a_batch_may_be_larger_than_that_bound(self) -> None:
        pictures = [picture("x", 2, 1)] * 100
        assert [len(group) for group in batches(pictures, 100)] == [100]
