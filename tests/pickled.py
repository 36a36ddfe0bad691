"""Messages as they come out of Ray and of connections."""

import pickle
from typing import TypeVar

T = TypeVar("T")


def sent(message: T) -> T:
    again: T = pickle.loads(pickle.dumps(message, protocol=5))
    return again
