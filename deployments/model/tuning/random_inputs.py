"""Random inputs for measurements and comparisons at load."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from deployments.datatypes import BF16, BYTES, NUMPY_DTYPES
from deployments.inference import InputSpec
from deployments.tensors import Array, Tensor, float32_to_bf16

_GRAIN: Final = 24
_LARGEST_HALF: Final = 65504.0


@dataclass(frozen=True, slots=True)
class Values:
    """The values of random tensors: floats of a standard deviation, integers below a limit.

    Pictures without a `deviation` are noise from 0 to 255.
    """

    deviation: float | None = None
    below: int = 2


_USUAL: Final = Values()


def random_rows(
    specs: Sequence[InputSpec],
    shapes: Sequence[Sequence[int]],
    seed: int,
    values: Values = _USUAL,
) -> list[Tensor]:
    """Random tensors of these shapes: pictures from 0 to 255, otherwise small numbers."""
    random = np.random.default_rng(seed)
    return [
        _random(spec, tuple(shape), random, values)
        for spec, shape in zip(specs, shapes, strict=True)
    ]


def _random(
    spec: InputSpec, shape: tuple[int, ...], random: np.random.Generator, values: Values
) -> Tensor:
    if spec.datatype == BYTES:
        strings = [b"%d" % n for n in random.integers(0, 10, int(np.prod(shape)))]
        return Tensor(spec.name, BYTES, shape, strings)
    floats = spec.datatype == BF16 or NUMPY_DTYPES[spec.datatype].kind == "f"
    data: Array
    if spec.pictures and (values.deviation is None or not floats):
        data = _noise(shape, spec.pictures, random)
    elif floats:
        data = _floats(spec, shape, random, values.deviation or 1.0)
    else:
        data = np.asarray(random.integers(0, values.below, shape))
    if spec.datatype == BF16:
        data = float32_to_bf16(data.astype(np.float32))
    return Tensor(spec.name, spec.datatype, shape, data.astype(NUMPY_DTYPES[spec.datatype]))


def _floats(
    spec: InputSpec, shape: tuple[int, ...], random: np.random.Generator, deviation: float
) -> Array:
    data = np.asarray(deviation * random.normal(size=shape))
    return np.clip(data, -_LARGEST_HALF, _LARGEST_HALF) if spec.datatype == "FP16" else data


def _noise(shape: tuple[int, ...], layout: str, random: np.random.Generator) -> Array:
    """Pictures of coarse and fine noise, in which detectors find objects."""
    fine = random.random(shape)
    coarse = random.random(shape)
    for axis in (2, 3) if layout == "NCHW" else (1, 2):
        coarse = coarse.take(np.arange(shape[axis]) // _GRAIN, axis)
    return np.asarray(204 * coarse + 51 * fine)
