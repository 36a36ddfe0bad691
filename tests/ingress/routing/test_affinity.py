import random
from collections import Counter

import pytest

from deployments.ingress.routing.affinity import WAY_TO_ANOTHER_NODE, ShapeAffinity
from deployments.transport.batches import ANY_ROUTE, Route
from deployments.transport.routing_stats import RoutingStats

SHAPES = random.Random(0).sample(range(2**62), 300)
SHAPE = SHAPES[0]


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Scene:
    """Replicas "a", "b", ... on this node, with four slots, where a compilation is 8 requests."""

    def __init__(self, count: int, far: str = "") -> None:
        self.clock = Clock()
        self.affinity = ShapeAffinity(self.clock)
        self.names = [chr(ord("a") + number) for number in range(count)]
        self.far = set(far)
        self.compiled: dict[str, set[int]] = {}
        self.loading: set[str] = set()
        self.tell()
        self.affinity.sent("a", 0)
        self.affinity.reported("a", 1)  # this ingress is the only one
        self.affinity.answered("a")

    def tell(self) -> None:
        facts = {
            name: RoutingStats(
                frozenset(self.compiled.get(name, ())), 4, 8.0, ready=name not in self.loading
            )
            for name in self.names
        }
        self.affinity.set_replicas(facts, near=set(self.names) - self.far)

    def choose(self, shape: int = SHAPE, avoid: str | None = None) -> str:
        chosen = self.affinity.choose(shape, avoid)
        assert chosen is not None
        return chosen

    def send(self, shape: int = SHAPE) -> str:
        chosen = self.choose(shape)
        self.affinity.sent(chosen, shape)
        return chosen


def test_without_replicas_any_route_is_taken() -> None:
    affinity = ShapeAffinity()
    assert affinity.choose(SHAPE) is None
    assert ANY_ROUTE == affinity.route(SHAPE)


def test_the_only_replica_gets_everything_even_after_it_failed() -> None:
    at = Scene(1)
    at.affinity.lost("a", 5.0)
    assert "a" == at.choose() == at.choose(avoid="a")


def test_a_shape_stays_where_it_was_sent_while_there_are_slots() -> None:
    at = Scene(8)
    assert 1 == len({at.send() for _ in range(4)})


def test_ingresses_agree_on_the_replica_of_a_shape() -> None:
    one, other = Scene(8), Scene(8)
    assert [one.choose(shape) for shape in SHAPES] == [other.choose(shape) for shape in SHAPES]


def test_shapes_are_spread_over_the_replicas() -> None:
    at = Scene(8)
    counts = Counter(at.choose(shape) for shape in SHAPES)
    assert set(at.names) == counts.keys()
    assert max(counts.values()) < 2 * len(SHAPES) / 8


def test_one_replica_more_takes_only_shapes_of_its_own() -> None:
    at = Scene(4)
    before = {shape: at.choose(shape) for shape in SHAPES}
    at.names.append("e")
    at.tell()
    after = {shape: at.choose(shape) for shape in SHAPES}
    moved = {shape for shape in SHAPES if before[shape] != after[shape]}
    assert {"e"} == {after[shape] for shape in moved}
    assert 0 < len(moved) < 0.35 * len(SHAPES)


def test_a_replica_that_compiled_the_shape_goes_before_the_one_that_hashing_prefers() -> None:
    at = Scene(8)
    first = at.choose()
    has_it = next(name for name in at.names if name != first)
    at.compiled[has_it] = {SHAPE}
    at.tell()
    assert has_it == at.choose()


def test_a_hot_shape_gets_another_replica_when_its_queue_is_longer_than_a_compilation() -> None:
    at = Scene(8)
    first = at.send()
    at.compiled[first] = {SHAPE}
    at.tell()
    sent = 1
    while at.choose() == first:
        at.affinity.sent(first, SHAPE)
        sent += 1
    assert 4 + 8 == sent  # its slots, and as many requests as a compilation takes
    second = at.send()
    # From then on both have it, and the shorter queue decides.
    for _ in range(30):
        at.send()
    for _ in range(60):
        at.affinity.answered(second)
    assert second == at.choose()
    for _ in range(60):
        at.affinity.answered(first)
    assert first == at.choose()


def test_what_others_send_counts_as_the_replica_tells_and_for_two_seconds() -> None:
    at = Scene(2)
    first = at.send()
    at.affinity.reported(first, 50)
    at.affinity.answered(first)
    assert first != at.choose()
    at.clock.now += 2.1
    assert first == at.choose()


def test_of_many_ingresses_each_expects_the_others_to_send_what_it_sends() -> None:
    at = Scene(2)
    for _ in range(200):  # a tenth of all is ours
        name = at.send()
        at.affinity.reported(name, 10)
        at.affinity.answered(name)
    at.clock.now += 3
    first = at.send()
    assert first == at.choose()  # 10 are there, of which 7 wait: less than a compilation
    at.affinity.sent(first, SHAPE)
    assert first != at.choose()  # 20


def test_a_new_shape_goes_to_the_less_busy_of_its_first_two_replicas() -> None:
    at = Scene(8)
    first = at.choose()
    for shape in SHAPES[1:]:
        if at.choose(shape) == first:
            for _ in range(6):
                at.affinity.sent(first, shape)
            break
    assert first != at.choose()


def test_where_it_was_sent_is_believed_for_ten_seconds() -> None:
    at = Scene(8)
    first = at.choose()
    for _ in range(5):  # busy, so that the shape begins elsewhere
        at.affinity.sent(first, SHAPES[1])
    second = at.send()
    assert second != first
    at.affinity.answered(second)
    for _ in range(5):
        at.affinity.answered(first)
    assert second == at.choose()
    at.clock.now += 10.1
    assert first == at.choose()


def test_a_lost_replica_is_avoided_for_a_while() -> None:
    at = Scene(3)
    first = at.choose()
    at.affinity.lost(first, 5.0)
    assert first != at.choose()
    at.clock.now += 5.1
    assert first == at.choose()


def test_what_is_lost_gone_or_loading_is_not_usable() -> None:
    at = Scene(3)
    assert [True] * 3 == [at.affinity.usable(name) for name in at.names]
    at.loading = {"c"}
    at.tell()
    at.affinity.lost("a", 5.0)
    assert [False, True, False, False] == [at.affinity.usable(name) for name in "abcd"]
    at.clock.now += 5.1
    assert at.affinity.usable("a")


def test_if_all_are_lost_one_is_taken_but_not_the_one_that_just_failed() -> None:
    at = Scene(3)
    for name in at.names:
        at.affinity.lost(name, 5.0)
    for name in at.names:
        assert at.choose(avoid=name) != name


def test_a_replica_that_has_not_loaded_the_model_yet_gets_nothing_while_another_has() -> None:
    at = Scene(3)
    at.loading = {"a", "c"}
    at.tell()
    assert {"b"} == {at.choose(shape) for shape in SHAPES}
    at.affinity.lost("b", 5.0)
    assert "b" != at.choose()
    at.loading = {"c"}
    at.tell()
    assert {"a"} == {at.choose(shape) for shape in SHAPES}


def test_another_node_is_taken_for_a_compiled_shape_but_not_for_a_new_one() -> None:
    at = Scene(2, far="b")
    assert WAY_TO_ANOTHER_NODE < 8
    assert {"a"} == {at.choose(shape) for shape in SHAPES}
    at.compiled["b"] = {SHAPE}
    at.tell()
    assert Route("b", near=False) == at.affinity.route(SHAPE)
    assert Route("a", near=True) == at.affinity.route(SHAPES[1])


def test_counts_go_on_for_replicas_that_stay_and_end_with_those_that_leave() -> None:
    at = Scene(2)
    first = at.send()
    for _ in range(40):
        at.affinity.sent(first, SHAPE)
    at.tell()
    assert first != at.choose()
    at.names.remove(first)
    at.tell()
    at.affinity.answered(first)
    at.affinity.reported(first, 3)
    at.names.append(first)
    at.tell()
    at.clock.now += 11
    assert first == at.choose()


def test_of_many_shapes_only_the_latest_are_remembered() -> None:
    at = Scene(2)
    for shape in range(3000):
        at.affinity.answered(at.send(shape))
    assert 1024 == len(at.affinity._shapes)


@pytest.mark.parametrize("size", [2, 64])
def test_choosing_is_the_same_for_the_same_history(size: int) -> None:
    def history() -> list[str]:
        at, generator = Scene(size), random.Random(1)
        chosen = []
        for _ in range(500):
            chosen.append(at.send(generator.choice(SHAPES[:20])))
            if generator.random() < 0.9:
                at.affinity.answered(generator.choice(chosen))
        return chosen

    assert history() == history()


def test_a_follower_learns_which_replicas_are_on_this_node_now_and_at_each_change() -> None:
    affinity, seen = ShapeAffinity(), list[set[str]]()
    affinity.set_replicas({"a": RoutingStats(), "far": RoutingStats()}, near={"a"})
    affinity.follow(seen.append)
    affinity.follow(seen.append)
    assert [{"a"}] == seen
    affinity.set_replicas({"a": RoutingStats(ready=True), "far": RoutingStats()}, near={"a"})
    assert [{"a"}] == seen
    affinity.set_replicas({"b": RoutingStats()}, near={"b"})
    affinity.set_replicas({}, near=set())
    assert [{"a"}, {"b"}, set()] == seen
