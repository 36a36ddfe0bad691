"""The demand for each shape, and the budget of compilations."""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import nlargest
from typing import Final

from deployments import timing
from deployments.inference import ShapeKey

_REMEMBERED_KEYS: Final = 4096
_MINUTE_S: Final = 60.0
_MOST_DISCARDED: Final = 32


@dataclass(slots=True)
class RequestRate:
    """A count that halves every minute."""

    count: float = 0.0
    at: float = 0.0

    def add(self, amount: int, now: float) -> float:
        self.count = self.value(now) + amount
        self.at = now
        return self.count

    def value(self, now: float) -> float:
        return float(self.count * 0.5 ** ((now - self.at) / timing.DEMAND_HALF_LIFE_S))


class Demand:
    """Counts requests by shape, and keeps a budget of compilations per minute."""

    def __init__(
        self,
        promote_after: int,
        compiles_per_minute: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.promote_after = promote_after
        self.compiles_per_minute = compiles_per_minute
        self._clock = clock
        self._interest: OrderedDict[ShapeKey, RequestRate] = OrderedDict()
        self._compiles: deque[float] = deque()
        self._discarded_in_a_row = _MOST_DISCARDED

    def add(self, key: ShapeKey, requests: int) -> float:
        """Counts requests for a shape, and returns the demand for it now."""
        interest = self._interest.setdefault(key, RequestRate())
        self._interest.move_to_end(key)
        if len(self._interest) > _REMEMBERED_KEYS:
            self._interest.popitem(last=False)
        return interest.add(requests, self._clock())

    def promotes(self, interest: float) -> bool:
        # Minus one: the count of requests that came one after the other has decayed a little.
        return interest > self.promote_after - 1

    def current(self, key: ShapeKey) -> float:
        return self._interest.get(key, RequestRate()).value(self._clock())

    def hottest(self, keys: Iterable[ShapeKey], count: int) -> list[ShapeKey]:
        return nlargest(count, keys, key=self.current)

    def spend(self, *, promotion: bool = False) -> bool:
        """Takes a compilation from this minute's budget; False if it is used up.

        For a `promotion` the budget is one a minute until a promotion is kept, then the full one.
        Each discarded promotion in a row halves it again. So a model that gains nothing from
        promotions is not compiled again and again.
        """
        now = self._clock()
        while self._compiles and self._compiles[0] < now - _MINUTE_S:
            self._compiles.popleft()
        halved = self._discarded_in_a_row if promotion else 0
        if len(self._compiles) >= max(1, self.compiles_per_minute >> halved):
            return False
        self._compiles.append(now)
        return True

    def refund(self) -> None:
        """Gives back what `spend` took for a compilation that was not made."""
        if self._compiles:
            self._compiles.pop()

    def promotion_ended(self, *, discarded: bool) -> None:
        """Notes the outcome of a promotion."""
        self._discarded_in_a_row = (
            min(self._discarded_in_a_row + 1, _MOST_DISCARDED) if discarded else 0
        )
