"""A process that infers for a replica: what it is told, its memory, and its loop.

Started by `deployments.model.apart`, and ended by the end of its connection, however that comes.
"""

import mmap
import os
import pickle
import signal
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import IntEnum
from math import prod
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np

from deployments.arena import ArenaAddress, ArenaUnreachable, PeerArenas
from deployments.crossing import unpack
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


# Questions and answers are plain tuples, for the reason that what lanes carry is. An input is its
# datatype, its shape, the arena that it lies in and where it begins there; without an arena it lies
# in the memory that is shared with the replica.
Input: TypeAlias = tuple[str, tuple[int, ...], tuple[Any, ...] | None, int]

# The inputs, the outputs that are wanted, and where in the shared memory they may go.
Question: TypeAlias = tuple[Sequence[Input], Sequence[str], int]

# An output is its name, its datatype, its shape, and its bytes if they are few or where they begin.
Output: TypeAlias = tuple[str, str, tuple[int, ...], bytearray | int]


class Kind(IntEnum):
    """What an answer is, and what comes behind that."""

    ANSWERED = 0  # the outputs, and for how many nanoseconds the inference ran
    FAILED = 1  # what CannotInfer said, and what OpenVINO did
    UNREACHABLE = 2  # nothing: an arena cannot be mapped


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


def in_region(region: Region, datatype: str, shape: tuple[int, ...], offset: int) -> Array:
    """The numbers that lie there."""
    dtype = NUMPY_DTYPES[datatype]
    return region.array(offset, prod(shape) * dtype.itemsize).view(dtype).reshape(shape)


class Messages:
    """Messages over a socket, in both directions."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._incoming = connection.makefile("rb")

    def wait_at_most(self, seconds: float) -> None:
        """Sending and receiving raise TimeoutError when it takes longer."""
        self._connection.settimeout(seconds)

    def send(self, message: object) -> None:
        """Raises OSError."""
        self._connection.sendall(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))

    def received(self) -> Any:
        """The next one, for which it waits. Raises EOFError, OSError, UnpicklingError."""
        return pickle.load(self._incoming)

    def close(self) -> None:
        self._incoming.close()
        self._connection.close()


def serve(connection_fd: int, region_fd: int) -> None:
    """The process: makes the compilation, says that it is there, answers until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the replica, which ends this one
    messages = Messages(socket.socket(fileno=connection_fd))
    with suppress(EOFError, ConnectionError, pickle.UnpicklingError):
        recipe: Recipe = messages.received()
        inferences = _Inferences(recipe.compiled(), Region(region_fd))
        messages.send(None)
        while True:
            messages.send(inferences.answer(messages.received()))


class _Inferences:
    """Answers questions."""

    def __init__(self, compiled: CompiledShape, region: Region) -> None:
        self._compiled = compiled
        self._region = region
        self._arenas = PeerArenas()

    def answer(self, question: Question) -> tuple[Any, ...]:
        """The kind of the answer and what comes behind it."""
        inputs, wanted, end = question
        places = Places(self._region, end)
        try:
            tensors = [self._tensor(*input_) for input_ in inputs]
            outputs, ns = self._compiled.timed(tensors, wanted, places.space)
        except ArenaUnreachable:
            return (int(Kind.UNREACHABLE),)
        except CannotInfer as error:
            return int(Kind.FAILED), str(error), str(error.__cause__)
        packed = [
            (output.name, output.datatype, output.shape, _bytes(output) if at is None else at)
            for output, at in zip(outputs, places.offsets, strict=True)
        ]
        return int(Kind.ANSWERED), packed, ns

    def _tensor(
        self, datatype: str, shape: tuple[int, ...], arena: tuple[Any, ...] | None, offset: int
    ) -> Tensor:
        """Raises ArenaUnreachable."""
        if arena is None:
            return Tensor("", datatype, shape, in_region(self._region, datatype, shape, offset))
        packed = ("", datatype, shape, offset)
        return unpack(packed, ArenaAddress(*arena), self._arenas)


def _bytes(output: Tensor) -> bytearray:
    """Not bytes: whoever makes an array of them may want to write to it."""
    assert not isinstance(output.data, list)
    return bytearray(output.data.data)
