"""Hypothesis strategies of several test modules."""

from math import prod

import numpy as np
from hypothesis import strategies as st

from deployments.datatypes import BYTES, DATATYPES, NUMPY_DTYPES
from deployments.tensors import Tensor

names = st.text(min_size=1, max_size=8)
datatypes = st.sampled_from(sorted(DATATYPES))
numeric_datatypes = st.sampled_from(sorted(NUMPY_DTYPES))
shapes = st.lists(st.integers(0, 3), max_size=4).map(tuple)


@st.composite
def tensors(
    draw: st.DrawFn,
    datatype: st.SearchStrategy[str] = datatypes,
    shape: st.SearchStrategy[tuple[int, ...]] = shapes,
) -> Tensor:
    """Tensors of any bit pattern: NaN with its payload, both zeros, any string."""
    drawn, size = draw(datatype), draw(shape)
    count = prod(size)
    if drawn == BYTES:
        strings = draw(st.lists(st.binary(max_size=9), min_size=count, max_size=count))
        return Tensor(draw(names), BYTES, size, strings)
    return Tensor(draw(names), drawn, size, draw(arrays(drawn, size)))


def arrays(datatype: str, shape: tuple[int, ...]) -> st.SearchStrategy[np.ndarray]:
    nbytes = prod(shape) * NUMPY_DTYPES[datatype].itemsize
    raw = st.binary(min_size=nbytes, max_size=nbytes)
    if datatype == "BOOL":
        raw = raw.map(lambda drawn: bytes(byte & 1 for byte in drawn))
    return raw.map(lambda drawn: np.frombuffer(drawn, NUMPY_DTYPES[datatype]).reshape(shape))


def contents(tensor: Tensor) -> tuple[str, str, tuple[int, ...], bytes | list[bytes]]:
    """A tensor as a tuple that compares bit by bit, so that NaNs are equal."""
    data = tensor.data
    if not isinstance(data, list):
        assert tensor.shape == data.shape
        assert NUMPY_DTYPES[tensor.datatype] == data.dtype
    return (
        tensor.name,
        tensor.datatype,
        tensor.shape,
        data if isinstance(data, list) else data.tobytes(),
    )
