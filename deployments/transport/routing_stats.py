"""What a model replica tells the request routers of itself, through Serve."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST_COST: Final = 64.0


@dataclass(frozen=True, slots=True)
class RoutingStats:
    """`shapes` are the numbers of those that it has compiled or keeps kernels of, see
    `shape_number`.

    It runs `slots` requests at once. Another shape costs as much as waiting for `compile_cost`
    requests: a compilation, or where all shapes have one, its kernels. It is `ready` when it has
    loaded the model.
    """

    shapes: frozenset[int] = frozenset()
    slots: int = 1
    compile_cost: float = 1.0
    ready: bool = False

    def as_stats(self) -> dict[str, Any]:
        return {
            "shapes": sorted(self.shapes),
            "slots": self.slots,
            "compile_cost": self.compile_cost,
            "ready": self.ready,
        }

    @classmethod
    def of_stats(cls, stats: Mapping[str, Any]) -> "RoutingStats":
        """Of what `as_stats` gave; of a replica that has not told anything yet, little is known."""
        default = cls()
        return cls(
            frozenset(stats.get("shapes", ())),
            stats.get("slots", default.slots),
            stats.get("compile_cost", default.compile_cost),
            stats.get("ready", default.ready),
        )


def in_requests(compile_s: float, request_s: float, streams: int) -> float:
    """A compilation in the requests that are answered meanwhile, as a power of two: Serve passes
    on what changes, so it should not change with every measurement."""
    if compile_s <= 0 or request_s <= 0:
        return 1.0
    requests = min(max(compile_s * streams / request_s, 1.0), MOST_COST)
    return float(2 ** round(math.log2(requests)))


def together(parts: Iterable[RoutingStats]) -> RoutingStats:
    """Of a replica that serves several versions."""
    facts = list(parts)
    if not facts:
        return RoutingStats()
    return RoutingStats(
        frozenset().union(*(part.shapes for part in facts)),
        max(part.slots for part in facts),
        max(part.compile_cost for part in facts),
        any(part.ready for part in facts),
    )
