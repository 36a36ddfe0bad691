"""Requests of the Open Inference Protocol as clients write them."""

from math import prod
from typing import Any

import numpy as np
import orjson
from hypothesis import strategies as st

from deployments.inference import InferRequest
from deployments.ingress.codecs.kserve_rest import RequestParser
from deployments.settings import Limits
from deployments.tensors import Array, Tensor

LIMITS = Limits()
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def parse_request(body: Array, header_length: int | None, limits: Limits) -> InferRequest:
    """Parses a request with a new parser."""
    return RequestParser(limits).parse(body, header_length)


def entry(name: str = "x", datatype: str = "FP32", shape: Any = (1,), **others: Any) -> Any:
    """One of a request's inputs."""
    return {"name": name, "datatype": datatype, "shape": shape, **others}


def body_of(message: Any, *binary: bytes) -> tuple[Array, int]:
    """A message followed by binary data, and the length of its JSON part."""
    head = message if isinstance(message, bytes) else orjson.dumps(message)
    return np.frombuffer(bytearray(b"".join((head, *binary))), np.uint8), len(head)


def parsed(message: Any, *binary: bytes, limits: Limits = LIMITS) -> InferRequest:
    """The request that the server parses from a message followed by binary data."""
    body, head_length = body_of(message, *binary)
    return parse_request(body, head_length if binary else None, limits)


def parsed_input(given: Any, *binary: bytes, limits: Limits = LIMITS) -> Tensor:
    """The tensor that the server parses from a request's only input."""
    (tensor,) = parsed({"inputs": [given]}, *binary, limits=limits).tensors
    return tensor


def numbers(tensor: Tensor) -> Array:
    assert not isinstance(tensor.data, list)
    assert tensor.shape == tensor.data.shape
    assert tensor.data.flags.c_contiguous
    return tensor.data


def nested(shape: tuple[int, ...], flat: list[Any]) -> Any:
    """Flat row-major data as nested lists."""
    if not shape:
        return flat[0]
    step = prod(shape[1:])
    return [
        nested(shape[1:], flat[row * step : (row + 1) * step]) if len(shape) > 1 else flat[row]
        for row in range(shape[0])
    ]
