"""Inferences in processes of their own, for shapes whose kernels have yet to be built.

Building them maps, protects and unmaps memory some hundred times for a shape, and every time stops
all threads of the process that share its address space; it waits for the allocator's locks, and so
do they. In a process with one thread none of that happens, and inferences of known shapes in the
replica go on undisturbed.
"""

import logging
import os
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np

from deployments.arena import ArenaAddress, birth, origin
from deployments.crossing import copied
from deployments.model.apart_process import (
    Input,
    Kind,
    Messages,
    Output,
    Question,
    Recipe,
    Region,
    aligned,
    in_region,
)
from deployments.model.compiled_shape import CannotInfer, Space, nowhere
from deployments.tensors import NUMPY_DTYPES, Array, Tensor

logger = logging.getLogger(__name__)

_LARGEST_BYTES: Final = 64 << 20
"""Larger inputs do not go to another process: it would keep memory of that size if copied."""
_STARTS_AT: Final = 4
_STARTS_WITHIN_S: Final = 10.0
_IDLE_S: Final = 300.0
_LOOK_S: Final = 1.0
_AGAIN_AFTER_S: Final = 60.0
_PATIENCE_S: Final = 60.0
_KERNELS: Final = "128"
"""How many oneDNN keeps. More serve shapes that come again, which these do not, and take longer."""
_MAIN: Final = "from deployments.model.apart_process import serve; serve"

_Origin: TypeAlias = Callable[[Array], tuple[ArenaAddress, int] | None]


class Gone(Exception):
    """Raised when a process has ended, or does not answer any more."""


class Process:
    """One process with the compilation. For one thread at a time."""

    def __init__(self, recipe: Recipe) -> None:
        """Blocks until it can answer. Raises OSError and Gone."""
        ours, theirs = socket.socketpair()
        self._messages = Messages(ours)
        self.wait_at_most(_PATIENCE_S)
        self._memory = os.memfd_create("anyshape-apart")
        self._region = Region(self._memory)
        self._owners: dict[int, bytes | None] = {}  # of arenas it has mapped; when they started
        try:
            self._process = _started(theirs.fileno(), self._memory)
        except OSError:
            self._let_go()
            raise
        finally:
            theirs.close()
        self._ask(recipe)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def outdated(self) -> bool:
        """Whether it holds memory of a process that is gone: no kernel can free that meanwhile."""
        try:
            return any(birth(pid) != since for pid, since in list(self._owners.items()))
        except OSError:
            return False  # nobody can tell

    def wait_at_most(self, seconds: float) -> None:
        """From now on, until it takes a question, and then until something of an answer comes."""
        self._patience_s = seconds
        self._messages.wait_at_most(seconds)

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]:
        """As `CompiledShape.timed`; tensors of numbers only. Raises CannotInfer and Gone."""
        answer = self._ask(self._question(tensors, wanted, origin))
        if answer[0] == Kind.UNREACHABLE:
            answer = self._ask(self._question(tensors, wanted, lambda array: None))
        kind, *content = answer
        if kind == Kind.FAILED:
            text, cause = content
            raise CannotInfer(text) from RuntimeError(cause)
        outputs, ns = content
        return [self._taken(output, space) for output in outputs], ns

    def _question(
        self, tensors: Sequence[Tensor], wanted: Sequence[str], origin: _Origin
    ) -> Question:
        """Inputs stay where they are if `origin` says where that is, others are copied."""
        inputs: list[Input] = []
        end = 0
        for tensor in tensors:
            data, shape = tensor.data, tensor.shape
            assert not isinstance(data, list)
            as_it_is = data.flags.c_contiguous and data.dtype == NUMPY_DTYPES[tensor.datatype]
            if as_it_is and (place := origin(data)) is not None:
                arena, offset = place
                if arena.pid not in self._owners:
                    self._owners[arena.pid] = birth(arena.pid)
                inputs.append((tensor.datatype, shape, tuple(arena), offset))
                continue
            offset = aligned(end)
            end = offset + data.nbytes
            in_region(self._region, tensor.datatype, shape, offset)[...] = data
            inputs.append((tensor.datatype, shape, None, offset))
        return inputs, tuple(wanted), end

    def end(self) -> None:
        """Ends it, also if it works or hangs. Blocks until it is gone."""
        self._process.kill()
        self._process.wait()
        self._let_go()

    def _let_go(self) -> None:
        self._messages.close()
        os.close(self._memory)

    def _ask(self, question: object) -> Any:
        try:
            self._messages.send(question)
            return self._messages.received()
        except TimeoutError as error:
            self.end()
            raise Gone(f"process {self.pid} gave no answer for {self._patience_s:g} s") from error
        except Exception as error:  # whatever it is, a part of the answer may still come
            self.end()
            raise Gone(f"process {self.pid} ended: {error!r}") from error

    def _taken(self, output: Output, space: Space) -> Tensor:
        """The output in memory of this process."""
        name, datatype, shape, content = output
        if isinstance(content, int):
            data = in_region(self._region, datatype, shape, content)
        else:
            data = np.frombuffer(content, NUMPY_DTYPES[datatype]).reshape(shape)
        if (place := space(data.nbytes)) is not None:
            data = copied(data, place)
        elif isinstance(content, int):
            data = data.copy()
        return Tensor(name, datatype, shape, data)


def _started(connection: int, memory: int) -> "subprocess.Popen[bytes]":
    """This Python with this path; one thread of its own, and OpenVINO's."""
    return subprocess.Popen(
        [sys.executable, "-c", f"{_MAIN}({connection}, {memory})"],
        pass_fds=(connection, memory),
        stdin=subprocess.DEVNULL,
        env={
            "ONEDNN_PRIMITIVE_CACHE_CAPACITY": _KERNELS,
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "OPENBLAS_NUM_THREADS": "1",
        },
    )


class Apart:
    """Up to `count` processes, which are there while shapes come that were never seen.

    They are started when several new shapes came in a short time, and end when none came for long;
    whoever comes meanwhile does not wait for them. One that ends is replaced, and so is one that
    has mapped memory of an ingress that is gone. For worker threads.
    """

    def __init__(self, recipe: Recipe, count: int) -> None:
        self._recipe = recipe
        self._count = count
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None
        self._free: list[Process] = []
        self._alive = 0
        self._arrivals: deque[float] = deque(maxlen=_STARTS_AT)

    @property
    def alive(self) -> int:
        return self._alive

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int] | None:
        """The outputs and the time that they took, None if no process can be had for them.

        Raises CannotInfer.
        """
        self._note_arrival()
        if sum(tensor.nbytes for tensor in tensors) > _LARGEST_BYTES:
            return None
        with self._lock:
            if not self._free:
                return None
            process = self._free.pop()
        try:
            answer = process.timed(tensors, wanted, space)
        except Gone as error:
            logger.warning("%s; another one is started", error)
            with self._lock:
                self._alive -= 1
            return None
        except BaseException:
            self._give_back(process)
            raise
        self._give_back(process)
        return answer

    def close(self) -> None:
        """Ends all processes. Blocks; nothing may be running."""
        self._closing.set()
        if (keeper := self._keeper) is not None:
            keeper.join()

    def _give_back(self, process: Process) -> None:
        with self._lock:
            if self._keeper is not None:
                self._free.append(process)
                return
            self._alive -= 1
        process.end()

    def _note_arrival(self) -> None:
        """Starts processes if this is one of many shapes in a short time."""
        now = time.monotonic()
        with self._lock:
            self._arrivals.append(now)
            many = len(self._arrivals) == _STARTS_AT and now - self._arrivals[0] < _STARTS_WITHIN_S
            if self._keeper is None and many and not self._closing.is_set():
                self._keeper = threading.Thread(target=self._keep, name="apart", daemon=True)
                self._keeper.start()

    def _keep(self) -> None:
        """In a thread of its own: sees to it that there are `count`, until none is needed."""
        next_try = 0.0
        while not self._closing.is_set() and time.monotonic() - self._arrivals[-1] < _IDLE_S:
            if time.monotonic() >= next_try:
                self._end_one_outdated()
                if self._alive < self._count:
                    if self._start():
                        continue
                    next_try = time.monotonic() + _AGAIN_AFTER_S
            self._closing.wait(_LOOK_S)
        with self._lock:
            ended, self._free, self._keeper = self._free, [], None
            self._alive -= len(ended)
        for process in ended:
            process.end()

    def _end_one_outdated(self) -> None:
        """One of those that are free; the next one has its turn when this one is replaced."""
        outdated = next((process for process in list(self._free) if process.outdated), None)
        with self._lock:
            if outdated is None or outdated not in self._free:
                return
            self._free.remove(outdated)
            self._alive -= 1
        outdated.end()

    def _start(self) -> bool:
        try:
            process = Process(self._recipe)
        except (OSError, Gone) as error:
            logger.warning("no process for new shapes: %s", error)
            return False
        with self._lock:
            self._alive += 1
            self._free.append(process)
        return True
