"""Makes bytes as they arrive over the wire."""

import numpy as np

from deployments.tensors import Array


def vector(raw: bytes | bytearray) -> Array:
    return np.frombuffer(raw, np.uint8)


def framed(items: list[bytes]) -> bytes:
    return b"".join(len(item).to_bytes(4, "little") + item for item in items)
