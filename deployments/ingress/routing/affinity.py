"""Shape affinity: which replica of a model gets a request of which shape.

A replica that has compiled a shape answers it at once, another has to compile, or to build kernels.
So a request goes where it costs least, counted in requests that it would have to wait for:

- what is queued at the replica beyond its slots, where a request waits for no other;
- a compilation or its kernels, unless the replica has those of the shape;
- the way to another node.

A replica that has not loaded the model yet gets none, as long as another has.

Equal costs are settled by rendezvous hashing (Thaler and Ravishankar, 1998): every ingress comes
to the same order of replicas for a shape, and a replica more or less moves only its own shapes.
A shape without a replica goes to the cheaper of its first two (Azar et al., "Balanced
allocations", 1994). One that is too hot for its replicas gets the next as soon as their queues
are longer than a compilation, and falls back to the first when they are not.
"""

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from hashlib import blake2s
from itertools import chain, islice
from typing import Final

import numpy as np

from deployments import timing
from deployments.transport.batches import ANY_ROUTE, Route
from deployments.transport.routing_stats import RoutingStats

WAY_TO_ANOTHER_NODE: Final = 1.0
FRESH: Final = 2
"""How many replicas without the shape are looked at."""

_REMEMBERED_SHAPES: Final = 1024
_SMOOTHING: Final = 0.02
_FIRST_SHARE: Final = 1 / 16
_LEAST_SHARE: Final = 1 / 64


@dataclass(slots=True, eq=False)
class _Replica:
    name: str
    place: int
    facts: RoutingStats
    near: bool
    own: int = 0
    others: int = 0
    others_until: float = 0.0
    lost_until: float = 0.0

    def queue(self, now: float, share: float) -> float:
        """The requests that one more would wait for.

        What others have sent is what the replica told of it, or what goes with our own, if those
        are usually this `share` of all.
        """
        others = self.others if now < self.others_until else 0
        load = max(self.own + others, self.own / share)
        return max(0.0, load + 1 - self.facts.slots)


@dataclass(slots=True)
class _Shape:
    """Its preferences among the replicas, and those it was sent to with how long that counts."""

    order: "array[int]"
    rank: "array[int]"
    believed: dict[str, float] = field(default_factory=dict)


class ShapeAffinity:
    """The replicas of one model as one ingress sees them. Shapes are 64-bit numbers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._listed: list[_Replica] = []
        self._any_ready = False
        self._share, self._heard = _FIRST_SHARE, 0
        self._numbers = np.empty(0, np.uint64)
        self._compiled: dict[int, list[_Replica]] = {}
        self._shapes: OrderedDict[int, _Shape] = OrderedDict()
        self._follower: Callable[[set[str]], None] | None = None

    def __contains__(self, replica: object) -> bool:
        return replica in self._replicas

    def __len__(self) -> int:
        return len(self._replicas)

    def follow(self, follower: "Callable[[set[str]], None]") -> None:
        """Calls `follower`, now and after each change, with the replicas on this node."""
        if self._follower != follower:
            self._follower = follower
            self._tell_follower()

    def route(self, shape: int, avoid: str | None = None) -> Route:
        """The way of a request of this shape, see `choose`."""
        replica = self.choose(shape, avoid)
        return ANY_ROUTE if replica is None else Route(replica, self._replicas[replica].near)

    def set_replicas(self, facts: Mapping[str, RoutingStats], near: Collection[str]) -> None:
        """The replicas that there are now, and which of them are on this node.

        Of those that stay, the counts go on.
        """
        old = self._replicas
        self._replicas = {}
        self._compiled = {}
        self._any_ready = any(told.ready for told in facts.values())
        for place, (name, told) in enumerate(sorted(facts.items())):
            replica = old.get(name) or _Replica(name, place, told, name in near)
            replica.place, replica.facts = place, told
            self._replicas[name] = replica
            for shape in told.shapes:
                self._compiled.setdefault(shape, []).append(replica)
        if old.keys() != self._replicas.keys():
            self._listed = list(self._replicas.values())
            self._numbers = np.array([_number(name) for name in self._replicas], np.uint64)
            for shape, seen in self._shapes.items():
                seen.order, seen.rank = self._preferences(shape)
            self._tell_follower()

    def _tell_follower(self) -> None:
        if self._follower is not None:
            self._follower({replica.name for replica in self._listed if replica.near})

    def choose(self, shape: int, avoid: str | None = None) -> str | None:
        """The replica for a request of this shape, None where there is none.

        `avoid` has just failed: it is taken only if it is the only one.
        """
        if len(self._listed) < 2:
            return self._listed[0].name if self._listed else None
        now = self._clock()
        seen = self._seen(shape)
        known = self._known(shape, seen, now)

        def cost(replica: _Replica) -> tuple[float, int]:
            waits = replica.queue(now, self._share)
            if replica not in known:
                waits += replica.facts.compile_cost
            if not replica.near:
                waits += WAY_TO_ANOTHER_NODE
            return waits, seen.rank[replica.place]

        def usable(replica: _Replica) -> bool:
            return self._usable(replica, now) and replica.name != avoid

        candidates = chain(known, self._fresh(seen, known))
        chosen = min(filter(usable, candidates), key=cost, default=None)
        if chosen is None:
            chosen = min(filter(usable, self._listed), key=cost, default=None)
        if chosen is None:
            chosen = min((r for r in self._listed if r.name != avoid), key=cost)
        return chosen.name

    def usable(self, replica: str) -> bool:
        """Whether it is there, has the model, if any has, and was not lost a moment ago."""
        there = self._replicas.get(replica)
        return there is not None and self._usable(there, self._clock())

    def _usable(self, replica: _Replica, now: float) -> bool:
        return replica.lost_until <= now and (replica.facts.ready or not self._any_ready)

    def sent(self, replica: str, shape: int) -> None:
        """A request is on its way; `answered` has to follow."""
        if (there := self._replicas.get(replica)) is not None:
            there.own += 1
            if len(self._listed) > 1:
                self._seen(shape).believed[replica] = self._clock() + timing.BELIEVED_S

    def answered(self, replica: str) -> None:
        there = self._replicas.get(replica)
        if there is not None and there.own:
            there.own -= 1

    def told(self, replica: str, load: int) -> None:
        """How many requests, of all ingresses, the replica had under way when it answered one.

        To be told before that one counts as `answered`.
        """
        if (there := self._replicas.get(replica)) is not None:
            there.others = max(0, load - there.own)
            there.others_until = self._clock() + timing.OTHER_LOAD_S
            if there.own:
                self._heard += 1
                share = max(_LEAST_SHARE, min(1.0, there.own / max(1, load)))
                self._share += (share - self._share) * max(_SMOOTHING, 1 / self._heard)

    def lost(self, replica: str, seconds: float) -> None:
        """It does not answer: for so long others are taken, where there are any."""
        if (there := self._replicas.get(replica)) is not None:
            there.lost_until = self._clock() + seconds

    def _known(self, shape: int, seen: _Shape, now: float) -> set[_Replica]:
        """The replicas that have the shape, or will have it: it was sent there not long ago."""
        known = set(self._compiled.get(shape, ()))
        for name, end in list(seen.believed.items()):
            if now >= end:
                del seen.believed[name]
            elif name in self._replicas:
                known.add(self._replicas[name])
        return known

    def _fresh(self, seen: _Shape, known: Collection[_Replica]) -> list[_Replica]:
        """The first replicas that do not have the shape, and the first of those on this node."""
        rest = (r for place in seen.order if (r := self._listed[place]) not in known)
        fresh = list(islice(rest, FRESH))
        near = next((r for r in chain(fresh, rest) if r.near), None)
        return fresh if near is None else [*fresh, near]

    def _seen(self, shape: int) -> _Shape:
        seen = self._shapes.get(shape)
        if seen is None:
            seen = self._shapes[shape] = _Shape(*self._preferences(shape))
            if len(self._shapes) > _REMEMBERED_SHAPES:
                self._shapes.popitem(last=False)
        else:
            self._shapes.move_to_end(shape)
        return seen

    def _preferences(self, shape: int) -> tuple["array[int]", "array[int]"]:
        """The places of the replicas in the order in which the shape prefers them, and the rank
        of each place: by a hash of both (splitmix64's finalizer; Steele et al., 2014)."""
        mixed = self._numbers ^ np.uint64(shape)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        order = np.argsort(mixed)
        return array("I", order.tolist()), array("I", np.argsort(order).tolist())


def _number(name: str) -> int:
    """Equal in all processes, unlike `hash`."""
    return int.from_bytes(blake2s(name.encode(), digest_size=8).digest(), "little")
