"""Sizes the kernel cache of a dynamic compilation, and so the number of shapes that it keeps.

The plugin builds kernels for each new shape. In each stream it keeps as many of each kind as
`CPU_RUNTIME_CACHE_CAPACITY` says. With too few, it builds them again for shapes that come back: a
detector over 50 shapes lost a quarter of its throughput. With OpenVINO's default of 5,000, memory
grows by megabytes for each of some hundred shapes. So this module measures what a shape takes.
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deployments.model.openvino.compiled_model import CompiledShape
from deployments.tensors import Tensor

OPENVINOS_DEFAULT: Final = 5000
FEWEST_SHAPES: Final = 4
_LARGE: Final = {"Convolution", "Deconvolution", "FullyConnected", "MatMul", "RNNSeq", "Subgraph"}
_SMALL_PART: Final = 1 / 8
"""The size of a kernel of another kind, as a part of the size of one of these."""
_LEAST_KERNEL_BYTES, _MOST_KERNEL_BYTES = 16 << 10, 512 << 10
_USUAL_KERNEL_BYTES: Final = 64 << 10
_STATM: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class KernelCache:
    """The size of a kernel cache: it keeps the kernels of `shapes` shapes.

    For that, each stream keeps `kernels` of each kind, and a shape takes about `shape_bytes` there.
    """

    shapes: int
    kernels: int
    shape_bytes: int


def sized(
    compiled: CompiledShape, new: Sequence[Sequence[Tensor]], bound_bytes: int
) -> KernelCache:
    """Sizes the cache so that its kernels fit into `bound_bytes`, but for four shapes at least.

    `new` are tensors of shapes that `compiled` has not run, the largest first: that one also
    allocates the memory that all shapes share. The measured size is clamped, because other work of
    the process may allocate memory meanwhile. Raises CannotInfer.
    """
    kinds = compiled.kernels or Counter({"Subgraph": 1})
    large = {kind: count for kind, count in kinds.items() if kind in _LARGE} or kinds
    weights = {kind: 1 if kind in large else _SMALL_PART for kind in kinds}
    of_a_shape = sum(count * weights[kind] for kind, count in kinds.items())
    shape_bytes = _measured_bytes(compiled, new) or round(_USUAL_KERNEL_BYTES * of_a_shape)
    kernel_bytes = shape_bytes / of_a_shape
    kernel_bytes = max(_LEAST_KERNEL_BYTES, min(_MOST_KERNEL_BYTES, kernel_bytes))
    # Each kind has a cache of its own, which is full in the end.
    kernels = int(bound_bytes / (compiled.streams * kernel_bytes * sum(weights.values())))
    for_a_shape = max(large.values())
    kernels = max(FEWEST_SHAPES * for_a_shape, min(OPENVINOS_DEFAULT, kernels))
    return KernelCache(kernels // for_a_shape, kernels, round(kernel_bytes * of_a_shape))


def _measured_bytes(compiled: CompiledShape, new: Sequence[Sequence[Tensor]]) -> int | None:
    """The memory that a shape after the first one adds to the process; None if not measurable."""
    if len(new) < 2 or not _STATM.exists():
        return None
    compiled.infer(new[0])
    before = _resident_bytes()
    for row in new[1:]:
        compiled.infer(row)
    return (_resident_bytes() - before) // (len(new) - 1)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
