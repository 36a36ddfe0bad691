"""How much a shape is asked for."""

from dataclasses import dataclass
from typing import Final

_HALF_LIFE_S: Final = 60.0


@dataclass(slots=True)
class Interest:
    """A count of which half is forgotten every minute."""

    count: float = 0.0
    at: float = 0.0

    def add(self, amount: int, now: float) -> float:
        self.count = self.value(now) + amount
        self.at = now
        return self.count

    def value(self, now: float) -> float:
        return float(self.count * 0.5 ** ((now - self.at) / _HALF_LIFE_S))
