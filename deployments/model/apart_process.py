"""A process that infers for a replica: what it is told, its memory, and its loop.

Started by `deployments.model.apart`, and ended by the end of its connection, however that comes.
"""

import mmap
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import numpy as np

from deployments.dimensions import Dim
from deployments.model.compiled_shape import CannotInfer, CompiledShape
from deployments.model.preprocessing import prepare
from deployments.model.runtime import Runtime
from deployments.preprocessing_settings import Preprocessing
from deployments.tensors import NUMPY_DTYPES, Array, Tensor

_ALIGNMENT: Final = 64
_GROWS_BY: Final = 1 << 20
_INLINE_BYTES: Final = 4096


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to make the compilation: the model, what is put in front of it, and for which shapes."""

    device: str
    plugin_config: Mapping[str, Any]
    source: str | Path
    preprocessing: Preprocessing
    shapes: tuple[tuple[Dim, ...], ...]

    def compiled(self) -> CompiledShape:
        """Raises CannotLoad, PolicyError, CannotReshape."""
        runtime = Runtime(self.device, self.plugin_config, one_thread=True)
        model = prepare(runtime.read(self.source), self.preprocessing).model
        return runtime.compile(runtime.reshaped(model, self.shapes))


class Region:
    """Memory that two processes share, as much as they ever needed at once."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._mapped: mmap.mmap | None = None

    def array(self, offset: int, nbytes: int) -> Array:
        """These bytes. The file grows where it is too short."""
        if not nbytes:
            return np.empty(0, np.uint8)
        end = offset + nbytes
        if self._mapped is None or len(self._mapped) < end:
            if (size := os.fstat(self._fd).st_size) < end:
                size = -(-end // _GROWS_BY) * _GROWS_BY
                os.ftruncate(self._fd, size)
            self._mapped = mmap.mmap(self._fd, size)
        return np.frombuffer(self._mapped, np.uint8, nbytes, offset)


@dataclass(frozen=True, slots=True)
class Question:
    """Inputs of one inference: the datatype, shape and offset of each, and what is asked for."""

    tensors: Sequence[tuple[str, tuple[int, ...], int]]
    wanted: Sequence[str]
    end: int

    def read(self, region: Region) -> list[Tensor]:
        return [
            in_region(region, "", datatype, shape, offset)
            for datatype, shape, offset in self.tensors
        ]


@dataclass(frozen=True, slots=True)
class Answered:
    """Each output with where it lies, or as it is if it is small; and the inference's time."""

    outputs: Sequence[tuple[Tensor, int | None]]
    ns: int


@dataclass(frozen=True, slots=True)
class Failed:
    """What CannotInfer said, and what OpenVINO did."""

    text: str
    cause: str


@dataclass(slots=True)
class Places:
    """Where outputs go: behind one another, from `end` on."""

    region: Region
    end: int
    offsets: list[int | None] = field(default_factory=list)

    def space(self, nbytes: int) -> Array | None:
        """Is asked once for each output, in their order."""
        if nbytes <= _INLINE_BYTES:
            self.offsets.append(None)
            return None
        offset = aligned(self.end)
        self.offsets.append(offset)
        self.end = offset + nbytes
        return self.region.array(offset, nbytes)


def aligned(offset: int) -> int:
    return -(-offset // _ALIGNMENT) * _ALIGNMENT


def in_region(
    region: Region, name: str, datatype: str, shape: tuple[int, ...], offset: int
) -> Tensor:
    """The tensor of numbers that lies there."""
    dtype = NUMPY_DTYPES[datatype]
    nbytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    data = region.array(offset, nbytes).view(dtype).reshape(shape)
    return Tensor(name, datatype, shape, data)


def serve(connection_fd: int, region_fd: int) -> None:
    """The process: makes the compilation, says that it is there, answers until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the replica, which ends this one
    connection, region = Connection(connection_fd), Region(region_fd)
    with suppress(EOFError, ConnectionError):
        recipe: Recipe = connection.recv()
        compiled = recipe.compiled()
        connection.send(None)
        while True:
            connection.send(_answer(compiled, region, connection.recv()))


def _answer(compiled: CompiledShape, region: Region, question: Question) -> Answered | Failed:
    places = Places(region, question.end)
    try:
        outputs, ns = compiled.timed(question.read(region), question.wanted, places.space)
    except CannotInfer as error:
        return Failed(str(error), str(error.__cause__))
    return Answered(
        [
            (output if offset is None else _without_data(output), offset)
            for output, offset in zip(outputs, places.offsets, strict=True)
        ],
        ns,
    )


def _without_data(output: Tensor) -> Tensor:
    return Tensor(output.name, output.datatype, output.shape, [])
