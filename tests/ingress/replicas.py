"""A model's replicas, controlled by a test."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from deployments.dimensions import Dim
from deployments.errors import ServingError
from deployments.inference import (
    InputSpec,
    ModelInfo,
    ModelStatus,
    OutputSpec,
    ShapeKey,
    VersionStatus,
)
from deployments.ingress.dataplane.served_model import ServedModel
from deployments.observability.shape_records import ShapesReport
from deployments.settings import Limits
from deployments.tensors import Array, Tensor
from deployments.transport.arena import Arena, PeerArenas
from deployments.transport.batches import (
    ANY_ROUTE,
    BatchCall,
    BatchItem,
    BatchReply,
    PackedTensor,
    Route,
    Unreachable,
    unpack,
)

OPEN = Dim(0, None)
INFO = ModelInfo(
    "doubler",
    "2",
    ("1", "2"),
    (InputSpec("x", "FP32", (OPEN, OPEN), 0),),
    (OutputSpec("twice", "FP32", (OPEN, OPEN)),),
    8,
    stacked_elements=100,
)
AVAILABLE = ModelStatus(
    "AVAILABLE",
    "",
    (
        VersionStatus("1", "AVAILABLE", "", replace(INFO, version="1")),
        VersionStatus("2", "AVAILABLE", "", INFO),
    ),
)
Answer: TypeAlias = tuple[PackedTensor, ...] | ServingError
Outcome: TypeAlias = Exception | Unreachable | BatchReply | Sequence[ServingError | None]


class Replicas:
    """Doubles its inputs, unless `outcomes` has another outcome for the next call.

    An outcome is an exception to raise, a reply, or a list of the members' errors.
    """

    def __init__(self, status: ModelStatus | Exception = AVAILABLE) -> None:
        self.status_now = status
        self.asked = 0
        self.looks = 0
        self.outcomes: list[Outcome] = []
        self.calls: list[BatchCall] = []
        self.reports: list[ShapesReport | None] | Exception = []
        self.by_reference: list[bool] = []
        self.routes: list[Route] = [ANY_ROUTE]
        self.taken: list[Route] = []
        self.lost: set[Route] = set()
        self.waiting: Counter[Route] = Counter()
        self.open = asyncio.Event()
        self.open.set()
        self._peers = PeerArenas()

    async def status(self) -> ModelStatus:
        self.asked += 1
        await self.open.wait()
        if isinstance(self.status_now, Exception):
            raise self.status_now
        return self.status_now

    async def statistics(self, version: str | None) -> list[dict[str, Any]]:
        return [{"asked": self.asked}]

    async def look(self, timeout_s: float) -> bool:
        self.looks += 1
        return self.looks == 1

    async def set_unloaded(self, unloaded: bool, timeout_s: float) -> None:
        unavailable = ModelStatus("UNAVAILABLE", "it was unloaded over the API")
        self.status_now = unavailable if unloaded else AVAILABLE

    async def shapes(self, version: str) -> list[ShapesReport | None]:
        if isinstance(self.reports, Exception):
            raise self.reports
        return self.reports if version == INFO.version else []

    def route(self, revision: str, key: ShapeKey, avoid: Route = ANY_ROUTE) -> Route:
        return next((route for route in self.routes if route != avoid), ANY_ROUTE)

    def usable(self, route: Route) -> bool:
        return route not in self.lost

    def sent(self, route: Route, revision: str, key: ShapeKey) -> None:
        self.waiting[route] += 1

    def answered(self, route: Route) -> None:
        self.waiting[route] -= 1

    async def infer(
        self, call: BatchCall, route: Route, *, by_reference: bool
    ) -> BatchReply | Unreachable:
        self.calls.append(call)
        self.taken.append(route)
        self.by_reference.append(by_reference)
        await self.open.wait()
        outcome: Outcome = self.outcomes.pop(0) if self.outcomes else [None] * len(call.members)
        if isinstance(outcome, Exception):
            raise outcome
        if isinstance(outcome, Unreachable | BatchReply):
            return outcome
        answers: list[Answer] = [
            self.doubled(call, member) if error is None else error
            for member, error in zip(call.members, outcome, strict=True)
        ]
        return BatchReply(tuple(answers))

    def doubled(self, call: BatchCall, member: BatchItem) -> tuple[PackedTensor, ...]:
        data = self.received(call, member)
        return (("twice", "FP32", data.shape, data * 2),)

    def received(self, call: BatchCall, member: BatchItem) -> Array:
        data = unpack(member.tensors[0], call.arena, self._peers).data
        assert isinstance(data, np.ndarray)
        return data

    @property
    def batch_sizes(self) -> list[int]:
        return [len(call.members) for call in self.calls]


def served(replicas: Replicas, arena: Arena | None = None, **limits: Any) -> ServedModel:
    return ServedModel("doubler", replicas, Limits(**limits), arena)


def tensor(*shape: int, value: float = 1.0) -> Tensor:
    return Tensor("x", "FP32", shape, np.full(shape, value, np.float32))


async def infer(
    model: ServedModel,
    *shape: int,
    value: float = 1.0,
    timeout_s: float = 30.0,
    outputs: Sequence[str] = (),
) -> Array:
    """The model's only output for an input that is `value` everywhere."""
    (answer,) = await model.infer(INFO, [tensor(*shape, value=value)], outputs, timeout_s)
    assert "twice" == answer.name
    assert isinstance(answer.data, np.ndarray)
    return answer.data
