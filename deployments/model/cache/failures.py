"""Values by shape that expire."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from deployments.inference import ShapeKey

T = TypeVar("T")

_KEYS: Final = 4096


class ExpiringByShape(Generic[T]):
    """Maps shapes to values until they expire, and keeps the latest 4,096."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._values: OrderedDict[ShapeKey, tuple[T, float]] = OrderedDict()

    def put(self, key: ShapeKey, value: T, seconds: float) -> None:
        self._values[key] = value, self._clock() + seconds
        if len(self._values) > _KEYS:
            self._values.popitem(last=False)

    def get(self, key: ShapeKey) -> T | None:
        found = self._values.get(key)
        if found is None:
            return None
        value, until = found
        if self._clock() >= until:
            del self._values[key]
            return None
        return value
