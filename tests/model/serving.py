"""A served version, called by a test as the deployment calls it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from deployments.inference import ShapeKey
from deployments.model.execution.requests import Answer, BatchMember
from deployments.model.openvino.compiled_model import (
    CannotInfer,
    CompiledShape,
    Space,
    no_allocation,
)
from deployments.model.versions.loaded import LoadedModel
from deployments.model.versions.serving import CacheSettings, VersionServer
from deployments.observability.metrics import SILENT, Telemetry
from deployments.tensors import Tensor
from tests.model.loading import assert_same, dynamic, tensor

PATIENCE_S = 10


@asynccontextmanager
async def serving(
    version: LoadedModel,
    *,
    blocking: bool = False,
    bound: int = 8,
    promote_after: int = 1000,
    compiles_per_minute: int = 1000,
    lock: asyncio.Lock | None = None,
    telemetry: Telemetry = SILENT,
) -> AsyncIterator["Served"]:
    settings = CacheSettings(bound, blocking, promote_after, compiles_per_minute)
    served = Served(version, settings, lock or asyncio.Lock(), telemetry=telemetry)
    yield served
    await served.close()


@dataclass(frozen=True)
class Request:
    """A request whose deadline was `late_s` seconds ago."""

    tensors: Sequence[Tensor]
    outputs: tuple[str, ...] = ()
    late_s: float = -PATIENCE_S


class Served(VersionServer):
    async def ask(self, *requests: Request | Sequence[Tensor]) -> list[Answer]:
        """Runs requests of one shape as one batch; returns the answers."""
        asked = [r if isinstance(r, Request) else Request(r) for r in requests]
        keys, works = set[ShapeKey](), list[BatchMember]()
        for request in asked:
            tensors = self.version.info.arrange(request.tensors)
            key, rows = self.version.info.key_and_rows(tensors, 1000)
            keys.add(key)
            deadline = time.monotonic() - request.late_s
            works.append(BatchMember(tensors, rows, request.outputs, deadline, 7.5))
        (key,) = keys
        return await self.run(key, works)

    async def settled(self) -> None:
        """Waits until no compilation and no comparison runs."""
        while self.statistics()["compiling"]:
            await asyncio.gather(*(e.compilation for e in self._shapes._compiling.values()))
        while (task := self._trials._task) is not None:
            await asyncio.wait([task])
            await asyncio.sleep(0)


class Tampered(CompiledShape):
    """A compilation that counts its inferences, and that a test controls."""

    def __init__(self, compiled: CompiledShape) -> None:
        super().__init__(compiled._requests, compiled._outputs)
        self.rows: list[int] = []
        self.fails: Callable[[Sequence[Tensor]], bool] = lambda tensors: False
        self.held: threading.Event | None = None
        self.slow_s = 0.0
        self.began = threading.Event()

    def infer(
        self,
        tensors: Sequence[Tensor],
        wanted: Sequence[str] = (),
        space: Space = no_allocation,
    ) -> list[Tensor]:
        self.rows.append(tensors[0].shape[0])
        self.began.set()
        time.sleep(self.slow_s)
        if self.held:
            assert self.held.wait(PATIENCE_S)
        if self.fails(tensors):
            raise CannotInfer("OpenVINO reports an error at node 'n'")
        return super().infer(tensors, wanted, space)


def tampered(version: LoadedModel) -> Tampered:
    """Replaces the version's compilation for all shapes by a Tampered one."""
    version.dynamic = tampered = Tampered(dynamic(version))
    return tampered


def holds(value: float) -> Callable[[Sequence[Tensor]], bool]:
    """A predicate: whether the first input has this value."""
    return lambda tensors: bool(np.any(np.asarray(tensors[0].data) == value))


def arrays(answer: Answer) -> list[Any]:
    assert isinstance(answer, list), answer
    return [output.data for output in answer]


def assert_answer(expected: Sequence[object], answer: Answer) -> None:
    assert isinstance(answer, list), answer
    assert_same(expected, answer)


def values(*shape: int) -> Tensor:
    return tensor(np.linspace(-3, 3, int(np.prod(shape)), dtype=np.float32).reshape(shape))


def counted(version: LoadedModel) -> Counter[ShapeKey]:
    """Counts the version's reshapes from now on, by key."""
    calls: Counter[ShapeKey] = Counter()
    reshape = version.reshape

    def count(key: ShapeKey) -> Callable[[], CompiledShape]:
        calls[key] += 1
        return reshape(key)

    version.reshape = count  # type: ignore[method-assign]
    return calls
