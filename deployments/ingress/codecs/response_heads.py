"""Encodes answers whose outputs are all binary, and remembers their JSON parts.

A model answers with the same names and shapes again and again.
"""

from functools import lru_cache
from typing import Final, TypeAlias

import orjson

from deployments.inference import InferResponse
from deployments.tensors import to_bytes

_Output: TypeAlias = tuple[str, str, tuple[int, ...], int]
"""An output's name, datatype, shape and bytes."""

_REMEMBERED: Final = 256


def all_binary(response: InferResponse) -> tuple[int, list[bytes | memoryview]]:
    """Encodes a response without an id; returns the JSON part's length and the body's parts."""
    described: list[_Output] = []
    parts: list[bytes | memoryview] = []
    for tensor in response.tensors:
        raw = to_bytes(tensor)
        described.append((tensor.name, tensor.datatype, tensor.shape, len(raw)))
        parts.append(raw)
    head = _head(response.model, response.version, tuple(described))
    return len(head), [head, *parts]


@lru_cache(_REMEMBERED)
def _head(model: str, version: str, outputs: tuple[_Output, ...]) -> bytes:
    entries = [
        {
            "name": name,
            "datatype": datatype,
            "shape": shape,
            "parameters": {"binary_data_size": nbytes},
        }
        for name, datatype, shape, nbytes in outputs
    ]
    return orjson.dumps({"model_name": model, "model_version": version, "outputs": entries})
