"""The rules of the one-process arms for new shapes: keep all compilations, or reload."""

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
    """Raised when a request times out while the model is being reloaded."""


class Compiled:
    """A compilation for the model's present shape, and its infer requests."""

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
    """A model with a compilation for its own shape, and threads that run infer requests."""

    def __init__(self, model: ov.Model) -> None:
        self._model = model
        self._shape: Shape = tuple(model.input(0).shape)
        self._compiled = Compiled(model)
        self._threads = ThreadPoolExecutor(2 * self._compiled.streams)
        self.compiles = 1

    async def infer(self, data: NDArray[Any]) -> bytes:
        """Runs an inference, and returns the bytes of the first output."""
        raise NotImplementedError

    async def _in_thread(self, work: Callable[[NDArray[Any]], T], data: NDArray[Any]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, data)


class KeepAll(Rule):
    """Compiles each shape once and keeps it; requests of the shape wait meanwhile."""

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
    """Keeps one compilation, and reloads when the next request has another shape.

    Requests keep their order, so two alternating shapes need a compilation for each request. A
    request of the loaded shape passes at once. That is faster than OpenVINO Model Server, which
    compiles for every request whose shape differed when it arrived, also if that shape was loaded
    meanwhile.
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

    It follows `infer`, `waitForLoaded` and `reloadModel` in `src/inference_executor.hpp` and
    `src/modelinstance.cpp` of OpenVINO Model Server, commit 7e4df0c7 (August 2026). The steps of a
    request are:

    - It waits until the model is loaded, at most 10 s, and then counts as in flight.
    - If its shape is not the loaded one, it no longer counts as in flight, and waits for the
      loading lock without a timeout.
    - With the lock, the model counts as loading, so new requests wait. The request waits in steps
      of 10 ms until no request is in flight.
    - It reshapes the model object, unless that has the shape by now, and compiles in any case.
    - The model is loaded, the request counts as in flight, and releases the lock.

    No step checks the shape again after taking the lock. So if N requests differed, each of them
    compiles, even if their shapes are equal. In Model Server, the threads' timing decides how many
    waiting requests pass the check before the model loads again. Here all those woken together
    pass, which is the fastest case: with two alternating shapes, requests of the loaded shape
    overtake the others.

    Unlike Model Server, this has the throughput hint and the infer requests of the other arms,
    handles any number of requests at once, has no recovery from a failed reshape, and keeps a
    picture's size, which Model Server would scale to the loaded shape.
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
            await self._reload(data.shape)  # counts it as in flight
        else:
            self._in_flight += 1
        try:
            return await self._in_thread(self._compiled.infer, data)
        finally:
            self._in_flight -= 1

    async def _wait_for_loaded(self) -> None:
        try:
            with anyio.fail_after(
                WAIT_FOR_LOADED_S
            ):  # in this task, so that it wakes before the lock's next owner
                while not self._loaded.is_set():
                    await self._loaded.wait()
        except TimeoutError:
            raise NotLoadedYet from None

    async def _reload(self, shape: Shape) -> None:
        async with self._loading:
            await asyncio.sleep(0)  # all tasks that were woken together check the shape first
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
