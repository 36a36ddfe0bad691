"""Shape affinity: chooses the replica of a model for a request, by the request's shape.

A replica that has compiled a shape answers it at once. Another has to compile or to build kernels.
So a request goes to the replica where it costs least. The unit is the number of requests that it
would wait for:

- the requests in the replica's queue, beyond its slots;
- a compilation or kernels, unless the replica has those of the shape;
- the transfer to another node.

A replica that has not loaded the model gets no requests while another has.

Rendezvous hashing (Thaler and Ravishankar, 1998) decides between equal costs: every ingress finds
the same order of replicas for a shape, and adding or removing a replica moves only its own shapes.
A shape without a replica goes to the cheaper of its first two (Azar et al., "Balanced
allocations", 1994). A shape that is too hot for its replicas gets the next one when their queues
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
"""The number of candidates among the replicas without the shape."""

_REMEMBERED_SHAPES: Final = 1024
_SMOOTHING: Final = 0.02
_FIRST_SHARE: Final = 1 / 16
_LEAST_SHARE: Final = 1 / 64


@dataclass(slots=True, eq=False)
class _Replica:
    name: str
    place: int
    stats: RoutingStats
    near: bool
    own: int = 0
    others: int = 0
    others_until: float = 0.0
    lost_until: float = 0.0

    def queue(self, now: float, share: float) -> float:
        """The number of requests that one more would wait for.

        The load from other ingresses is the one that the replica reported, or an estimate: our own
        requests are usually this `share` of all.
        """
        others = self.others if now < self.others_until else 0
        load = max(self.own + others, self.own / share)
        return max(0.0, load + 1 - self.stats.slots)


@dataclass(slots=True)
class _Shape:
    """A shape's preferences among the replicas, and those it was sent to, each with an expiry."""

    order: "array[int]"
    rank: "array[int]"
    sent_until: dict[str, float] = field(default_factory=dict)


class ShapeAffinity:
    """The replicas of one model as one ingress sees them. Shapes are 64-bit numbers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._replicas: dict[str, _Replica] = {}
        self._listed: list[_Replica] = []
        self._any_ready = False
        self._share, self._reports = _FIRST_SHARE, 0
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
            self._notify_follower()

    def route(self, shape: int, avoid: str | None = None) -> Route:
        """The route for a request of this shape, see `choose`."""
        replica = self.choose(shape, avoid)
        return ANY_ROUTE if replica is None else Route(replica, self._replicas[replica].near)

    def set_replicas(self, reports: Mapping[str, RoutingStats], near: Collection[str]) -> None:
        """Sets the present replicas, and which of them are on this node.

        Replicas that stay keep their counts.
        """
        old = self._replicas
        self._replicas = {}
        self._compiled = {}
        self._any_ready = any(stats.ready for stats in reports.values())
        for place, (name, stats) in enumerate(sorted(reports.items())):
            replica = old.get(name) or _Replica(name, place, stats, name in near)
            replica.place, replica.stats = place, stats
            self._replicas[name] = replica
            for shape in stats.shapes:
                self._compiled.setdefault(shape, []).append(replica)
        if old.keys() != self._replicas.keys():
            self._listed = list(self._replicas.values())
            self._numbers = np.array([_number(name) for name in self._replicas], np.uint64)
            for shape, seen in self._shapes.items():
                seen.order, seen.rank = self._preferences(shape)
            self._notify_follower()

    def _notify_follower(self) -> None:
        if self._follower is not None:
            self._follower({replica.name for replica in self._listed if replica.near})

    def choose(self, shape: int, avoid: str | None = None) -> str | None:
        """The replica for a request of this shape, None if there are no replicas.

        `avoid` has just failed: it is chosen only if it is the only one.
        """
        if len(self._listed) < 2:
            return self._listed[0].name if self._listed else None
        now = self._clock()
        seen = self._seen(shape)
        known = self._known(shape, seen, now)

        def cost(replica: _Replica) -> tuple[float, int]:
            waits = replica.queue(now, self._share)
            if replica not in known:
                waits += replica.stats.compile_cost
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
        """Whether the replica exists, was not lost recently, and has the model, if any has."""
        there = self._replicas.get(replica)
        return there is not None and self._usable(there, self._clock())

    def _usable(self, replica: _Replica, now: float) -> bool:
        return replica.lost_until <= now and (replica.stats.ready or not self._any_ready)

    def sent(self, replica: str, shape: int) -> None:
        """Counts a request in flight; the caller must call `answered` for it."""
        if (there := self._replicas.get(replica)) is not None:
            there.own += 1
            if len(self._listed) > 1:
                self._seen(shape).sent_until[replica] = self._clock() + timing.BELIEVED_S

    def answered(self, replica: str) -> None:
        there = self._replicas.get(replica)
        if there is not None and there.own:
            there.own -= 1

    def reported(self, replica: str, load: int) -> None:
        """Notes the load that a replica reported with an answer: requests of all ingresses.

        The caller must call this before `answered` for that request.
        """
        if (there := self._replicas.get(replica)) is not None:
            there.others = max(0, load - there.own)
            there.others_until = self._clock() + timing.OTHER_LOAD_S
            if there.own:
                self._reports += 1
                share = max(_LEAST_SHARE, min(1.0, there.own / max(1, load)))
                self._share += (share - self._share) * max(_SMOOTHING, 1 / self._reports)

    def lost(self, replica: str, seconds: float) -> None:
        """Avoids a replica that does not answer for `seconds`, if there are others."""
        if (there := self._replicas.get(replica)) is not None:
            there.lost_until = self._clock() + seconds

    def _known(self, shape: int, seen: _Shape, now: float) -> set[_Replica]:
        """The replicas that have the shape, or that were sent it recently."""
        known = set(self._compiled.get(shape, ()))
        for name, end in list(seen.sent_until.items()):
            if now >= end:
                del seen.sent_until[name]
            elif name in self._replicas:
                known.add(self._replicas[name])
        return known

    def _fresh(self, seen: _Shape, known: Collection[_Replica]) -> list[_Replica]:
        """The first replicas without the shape in its order, and the first on this node."""
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
        """The replicas' places in the shape's order of preference, and the rank of each place.

        The order is that of a hash of both (splitmix64's finalizer; Steele et al., 2014).
        """
        mixed = self._numbers ^ np.uint64(shape)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
        order = np.argsort(mixed)
        return array("I", order.tolist()), array("I", np.argsort(order).tolist())


def _number(name: str) -> int:
    """A hash of the name that is equal in all processes, unlike `hash`."""
    return int.from_bytes(blake2s(name.encode(), digest_size=8).digest(), "little")
