"""How many shapes a compilation for all shapes remembers: how large its kernel cache is.

The plugin builds kernels for each shape that it meets, and keeps as many of each kind in each
stream as `CPU_RUNTIME_CACHE_CAPACITY` says. With too few, shapes that come back are built anew each
time: a detector over 50 shapes lost a quarter of its throughput. With OpenVINO's 5,000 memory grows
by megabytes for each of some hundred shapes. So what a shape takes is measured.
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
"""What a kernel of another kind takes of what one of these takes."""
_LEAST_KERNEL_BYTES, _MOST_KERNEL_BYTES = 16 << 10, 512 << 10
_USUAL_KERNEL_BYTES: Final = 64 << 10
_STATM: Final = Path("/proc/self/statm")


@dataclass(frozen=True, slots=True)
class KernelCache:
    """`shapes` find their kernels when they come back; `kernels` of each kind are kept for that in
    each stream, where a shape takes about `shape_bytes`."""

    shapes: int
    kernels: int
    shape_bytes: int


def sized(
    compiled: CompiledShape, new: Sequence[Sequence[Tensor]], bound_bytes: int
) -> KernelCache:
    """As many kernels of each kind as fit into `bound_bytes` in all streams, for four shapes at
    least.

    `new` are tensors of shapes that it has not run, the largest first: that one also brings the
    memory that all of them share. Other work of the process may grow meanwhile, so what is measured
    counts within bounds. Raises CannotInfer.
    """
    kinds = compiled.kernels or Counter({"Subgraph": 1})
    large = {kind: count for kind, count in kinds.items() if kind in _LARGE} or kinds
    weights = {kind: 1 if kind in large else _SMALL_PART for kind in kinds}
    of_a_shape = sum(count * weights[kind] for kind, count in kinds.items())
    shape_bytes = _measured_bytes(compiled, new) or round(_USUAL_KERNEL_BYTES * of_a_shape)
    kernel_bytes = shape_bytes / of_a_shape
    kernel_bytes = max(_LEAST_KERNEL_BYTES, min(_MOST_KERNEL_BYTES, kernel_bytes))
    # Each kind has room of its own, which in the end is full.
    kernels = int(bound_bytes / (compiled.streams * kernel_bytes * sum(weights.values())))
    for_a_shape = max(large.values())
    kernels = max(FEWEST_SHAPES * for_a_shape, min(OPENVINOS_DEFAULT, kernels))
    return KernelCache(kernels // for_a_shape, kernels, round(kernel_bytes * of_a_shape))


def _measured_bytes(compiled: CompiledShape, new: Sequence[Sequence[Tensor]]) -> int | None:
    """What a shape after the first one adds to the process, None where that cannot be told."""
    if len(new) < 2 or not _STATM.exists():
        return None
    compiled.infer(new[0])
    before = _resident_bytes()
    for row in new[1:]:
        compiled.infer(row)
    return (_resident_bytes() - before) // (len(new) - 1)


def _resident_bytes() -> int:
    return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
