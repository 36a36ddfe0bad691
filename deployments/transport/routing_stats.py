"""The statistics that a model replica reports to the request routers, through Serve."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

MOST_COST: Final = 64.0


@dataclass(frozen=True, slots=True)
class RoutingStats:
    """The statistics of one replica.

    `shapes` are the numbers (`shape_number`) of the shapes that have a compilation or kernels.
    The replica runs `slots` requests at once. For another shape it compiles or builds kernels,
    which costs as much as waiting for `compile_cost` requests. It is `ready` when it has loaded the
    model.
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
        """Reads the result of `as_stats`; before the first report it is empty: the defaults."""
        default = cls()
        return cls(
            frozenset(stats.get("shapes", ())),
            stats.get("slots", default.slots),
            stats.get("compile_cost", default.compile_cost),
            stats.get("ready", default.ready),
        )


def in_requests(compile_s: float, request_s: float, streams: int) -> float:
    """Converts the time of a compilation to the number of requests answered meanwhile.

    It is a power of two, so that it does not change with every measurement: Serve distributes each
    change.
    """
    if compile_s <= 0 or request_s <= 0:
        return 1.0
    requests = min(max(compile_s * streams / request_s, 1.0), MOST_COST)
    return float(2 ** round(math.log2(requests)))


def together(parts: Iterable[RoutingStats]) -> RoutingStats:
    """Combines the statistics of a replica's versions."""
    facts = list(parts)
    if not facts:
        return RoutingStats()
    return RoutingStats(
        frozenset().union(*(part.shapes for part in facts)),
        max(part.slots for part in facts),
        max(part.compile_cost for part in facts),
        any(part.ready for part in facts),
    )
