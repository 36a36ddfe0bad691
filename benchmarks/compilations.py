"""The two rules of the one-process arms for shapes that differ: keep each, or reload for each."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import anyio
import numpy as np
import openvino as ov
from numpy.typing import NDArray

from benchmarks.compiling import properties
from benchmarks.shapes import Shape

T = TypeVar("T")
WAIT_FOR_LOADED_S: Final = 10.0
IN_FLIGHT_POLL_S: Final = 0.01


class NotLoadedYet(Exception):
    """Raised when the model was being reloaded for longer than a request waits for that."""


class Compiled:
    """A compilation for the model's shape at this moment, and its infer requests."""

    def __init__(self, model: ov.Model) -> None:
        compiled = ov.Core().compile_model(model, "CPU", properties())
        self.streams = int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: SimpleQueue[Any] = SimpleQueue()
        for _ in range(2 * self.streams):
            self._idle.put(compiled.create_infer_request())

    def infer(self, data: NDArray[Any]) -> bytes:
        data = np.require(data, requirements=["C", "A"])
        request = self._idle.get()
        try:
            request.set_input_tensor(0, ov.Tensor(data, shared_memory=True))
            request.infer()
            return bytes(request.get_output_tensor(0).data.tobytes())
        finally:
            self._idle.put(request)


class Rule:
    """A model with a compilation for its own shape, and threads for its infer requests."""

    def __init__(self, model: ov.Model) -> None:
        self._model = model
        self._shape: Shape = tuple(model.input(0).shape)
        self._compiled = Compiled(model)
        self._threads = ThreadPoolExecutor(2 * self._compiled.streams)
        self.compiles = 1

    async def infer(self, data: NDArray[Any]) -> bytes:
        """The bytes of the first output."""
        raise NotImplementedError

    async def _in_thread(self, work: Callable[[NDArray[Any]], T], data: NDArray[Any]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, data)


class KeepAll(Rule):
    """One compilation for every shape, made once while others of that shape wait for it."""

    def __init__(self, model: ov.Model) -> None:
        super().__init__(model)
        self._kept = {self._shape: self._compiled}
        self._lock = asyncio.Lock()

    async def infer(self, data: NDArray[Any]) -> bytes:
        if data.shape not in self._kept:
            async with self._lock:
                if data.shape not in self._kept:
                    self._kept[data.shape] = await asyncio.to_thread(self._compile, data.shape)
                    self.compiles += 1
        return await self._in_thread(self._kept[data.shape].infer, data)

    def _compile(self, shape: Shape) -> Compiled:
        model = self._model.clone()
        model.reshape(list(shape))
        return Compiled(model)


class ReloadPerChange(Rule):
    """One compilation, a lock, and a reload whenever the next request's shape differs.

    Requests keep their order, so two shapes that take turns cost a compilation for each request.
    A request of the loaded shape passes at once, which is kinder than OpenVINO Model Server: that
    compiles for every request that was found to differ, whatever was loaded meanwhile.
    """

    def __init__(self, model: ov.Model) -> None:
        super().__init__(model)
        self._turn = asyncio.Lock()
        self._in_flight = 0
        self._idle = asyncio.Event()

    async def infer(self, data: NDArray[Any]) -> bytes:
        async with self._turn:
            if data.shape != self._shape:
                await self._reload(data.shape)
            self._in_flight += 1
        try:
            return await self._in_thread(self._compiled.infer, data)
        finally:
            self._in_flight -= 1
            self._idle.set()

    async def _reload(self, shape: Shape) -> None:
        while self._in_flight:
            self._idle.clear()
            await self._idle.wait()
        self._compiled = await asyncio.to_thread(self._compile, shape)
        self._shape = shape
        self.compiles += 1

    def _compile(self, shape: Shape) -> Compiled:
        self._model.reshape(list(shape))
        return Compiled(self._model)


class ModelServer(Rule):
    """OpenVINO Model Server's rule for `shape auto`, step by step.

    It rests on `src/inference_executor.hpp` and `src/modelinstance.cpp` of OpenVINO Model Server,
    commit 7e4df0c7 (August 2026): `infer`, `waitForLoaded`, `reloadModel`. In that order,
    a request waits until the model is loaded, 10 s at most, and joins those in flight; if its
    shape is not the loaded one it leaves them again and waits for the loading lock, however
    long; then the model counts as loading, which holds up new requests, and the request waits in
    steps of 10 ms until none is in flight; the same model object is reshaped, unless it has the
    shape by now, and compiled in any case; the model is loaded, the request joins those in
    flight, and the lock is released. Nothing is looked at again after the lock was taken: of N
    requests that were found to differ, each compiles, also those of one and the same shape.
    There, how many of those that wait for the model get past the check before it loads again is
    up to the threads; here all do that were woken together, the kindest case: with two shapes that
    take turns, those of the loaded shape overtake the others.

    Unlike there, the throughput hint and the infer requests are those of the other arms, any
    number of requests is handled at once, what follows on a failed reshape is left out, and a
    picture keeps its size, where Model Server would scale it to the loaded shape.
    """

    def __init__(self, model: ov.Model) -> None:
        super().__init__(model)
        self._loading = asyncio.Lock()
        self._loaded = asyncio.Event()
        self._loaded.set()
        self._in_flight = 0

    async def infer(self, data: NDArray[Any]) -> bytes:
        await self._wait_for_loaded()
        if data.shape != self._shape:
            await self._reload(data.shape)  # has joined those in flight when it comes back
        else:
            self._in_flight += 1
        try:
            return await self._in_thread(self._compiled.infer, data)
        finally:
            self._in_flight -= 1

    async def _wait_for_loaded(self) -> None:
        try:
            with anyio.fail_after(WAIT_FOR_LOADED_S):  # in this task: woken before the lock's next
                while not self._loaded.is_set():
                    await self._loaded.wait()
        except TimeoutError:
            raise NotLoadedYet from None

    async def _reload(self, shape: Shape) -> None:
        async with self._loading:
            await asyncio.sleep(0)  # all that were woken at once look at the shape first
            self._loaded.clear()
            while self._in_flight:  # noqa: ASYNC110 -- as the original waits
                await asyncio.sleep(IN_FLIGHT_POLL_S)
            self._compiled = await asyncio.to_thread(self._compile, shape)
            self._shape = shape
            self.compiles += 1
            self._loaded.set()
            self._in_flight += 1

    def _compile(self, shape: Shape) -> Compiled:
        if shape != self._shape:
            self._model.reshape(list(shape))
        return Compiled(self._model)
