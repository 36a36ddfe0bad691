"""All served models, and the path that the requests of all protocols share."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from deployments import timing
from deployments.datatypes import BYTES
from deployments.errors import (
    ControlDisabled,
    LabelNotFound,
    MalformedBody,
    ModelNotFound,
    ModelUnavailable,
    VersionChanged,
)
from deployments.inference import (
    InferRequest,
    InferResponse,
    ModelInfo,
    ModelStatus,
    VersionStatus,
)
from deployments.ingress.codecs import tfs
from deployments.ingress.codecs.images import decode_pictures, is_picture_input
from deployments.ingress.dataplane.served_model import ServedModel
from deployments.observability.metrics import SILENT, Telemetry
from deployments.settings import Limits
from deployments.tensors import Array, Tensor
from deployments.transport.arena import Arena

T = TypeVar("T")

_OFF_LOOP_BYTES: Final = 256 * 1024


_INDEX_STATES: Final = {
    "AVAILABLE": "READY",
    "LOADING": "LOADING",
    "UNAVAILABLE": "UNAVAILABLE",
    "UNLOADING": "UNLOADING",
}
_CHANGES: Final = 8


class IndexEntry(NamedTuple):
    """A version in the index of Triton's model repository extension."""

    name: str
    version: str
    state: str
    reason: str


class Target(NamedTuple):
    """The model that a request addresses, and the `version` that it names, None for the default."""

    model: ServedModel
    info: ModelInfo
    version: str | None


class ServedModels:
    def __init__(
        self,
        models: Mapping[str, ServedModel],
        limits: Limits,
        arena: Arena | None,
        *,
        control: bool = False,
        telemetry: Telemetry = SILENT,
    ) -> None:
        self.limits = limits
        self.telemetry = telemetry
        self._control = control
        self._models = dict(models)
        self._arena = arena
        self._settled = False

    def change(self, names: Sequence[str], new: Mapping[str, ServedModel]) -> list[ServedModel]:
        """Serves these models from now on, in this order; returns the removed ones."""
        models = {**self._models, **new}
        gone = [model for name, model in self._models.items() if name not in names]
        self._models = {name: models[name] for name in names}
        return gone

    async def addressed(
        self, name: str, version: str | None = None, label: str | None = None
    ) -> Target:
        """Finds a model and version.

        Raises ModelNotFound, ModelUnavailable, VersionNotFound, LabelNotFound.
        """
        model = self.named(name)
        info = await model.info(version)
        if label is not None:
            if label not in info.labels:
                raise LabelNotFound(name, label, list(info.labels))
            version = info.labels[label]
            info = await model.info(version)
        return Target(model, info, version)

    def named(self, name: str) -> ServedModel:
        """The model of that name. Raises ModelNotFound."""
        model = self._models.get(name)
        if model is None:
            raise ModelNotFound(name, list(self._models))
        return model

    async def check_ready(self) -> None:
        """Raises ModelUnavailable until no model is loading and at least one is available."""
        if self._settled:
            return
        statuses = await self.statuses()
        for name, status in statuses.items():
            if status.state == "LOADING":
                raise ModelUnavailable(name, status.reason)
        if all(status.info is None for status in statuses.values()):
            name, status = next(iter(statuses.items()))
            raise ModelUnavailable(name, status.reason)
        self._settled = True

    async def statuses(self) -> dict[str, ModelStatus]:
        """The statuses of the models served at this call; models may change meanwhile."""
        models = self._models
        statuses = await asyncio.gather(*(model.status() for model in models.values()))
        return dict(zip(models, statuses, strict=True))

    async def version_statuses(
        self, name: str, version: str | None, label: str | None
    ) -> list[tfs.VersionStatus]:
        """The statuses of a model's versions, or of one.

        Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelUnavailable.
        """
        if label is not None:
            version = (await self.addressed(name, label=label)).version
        return tfs.version_statuses(name, await self.named(name).status(), version)

    async def index(self, *, only_ready: bool) -> list[IndexEntry]:
        """Every version of every model; the version is empty until it is known."""
        index = [
            IndexEntry(name, version.version, _INDEX_STATES[version.state], version.reason)
            for name, status in (await self.statuses()).items()
            for version in status.versions or (VersionStatus("", status.state, status.reason),)
        ]
        return [entry for entry in index if entry.state == "READY" or not only_ready]

    async def look(self) -> bool:
        """Makes all models look for new, changed and removed versions; whether there were any.

        Ignores models whose replicas do not answer: their status reports that.
        """
        looks = [model.look() for model in self._models.values()]
        changed = await asyncio.gather(*looks, return_exceptions=True)
        return any(change is True for change in changed)

    def controlled(self, name: str) -> ServedModel:
        """A model to load or unload. Raises ControlDisabled, ModelNotFound."""
        if not self._control:
            raise ControlDisabled
        return self.named(name)

    async def infer(
        self,
        target: Target,
        request: InferRequest,
        started: float,
        timeout_s: float = math.inf,
        changes: int = 0,
    ) -> InferResponse:
        """Answers a request that began to arrive at `started` (monotonic clock).

        The timeout is the least of `timeout_s`, the limit, and the request's parameter `timeout`
        (microseconds, as in Triton). If the version changes while the request is in flight, the
        request is prepared again for the new one. Raises the ServingErrors that a client can cause.
        """
        model, info, version = target
        timeout_s = min(timeout_s, self._timeout_s(request.parameters))
        try:
            return await self._inferred(model, info, request, started, timeout_s)
        except VersionChanged:
            if changes == _CHANGES:
                raise
        # Replicas change one after the other, so the version may change more than once.
        await asyncio.sleep(changes * timing.VERSION_CHANGE_S)
        now = Target(model, await model.changed_info(version), version)
        return await self.infer(now, request, started, timeout_s, changes + 1)

    async def _inferred(
        self,
        model: ServedModel,
        info: ModelInfo,
        request: InferRequest,
        started: float,
        timeout_s: float,
    ) -> InferResponse:
        tensors: Sequence[Tensor] = request.tensors
        if any(tensor.datatype == BYTES for tensor in tensors):
            tensors = [await self._decoded(info, request, tensor) for tensor in tensors]
        elapsed_s = time.monotonic() - started
        outputs = await model.infer(info, tensors, tuple(request.outputs), timeout_s, elapsed_s)
        return InferResponse(info.name, info.version, tuple(outputs), request.id)

    async def close(self) -> None:
        await asyncio.gather(*(model.close() for model in self._models.values()))

    def _timeout_s(self, parameters: Mapping[str, Any]) -> float:
        microseconds = parameters.get("timeout")
        if microseconds is None:
            return self.limits.timeout_s
        if type(microseconds) is not int or microseconds < 0:
            raise MalformedBody(f"parameter 'timeout' is {microseconds!r}, not microseconds")
        return min(self.limits.timeout_s, microseconds / 1e6 or math.inf)

    async def _decoded(self, info: ModelInfo, request: InferRequest, tensor: Tensor) -> Tensor:
        """The tensor; a worker thread decodes encoded pictures to pixels."""
        spec = next((spec for spec in info.inputs if spec.name == tensor.name), None)
        if spec is None or not is_picture_input(spec, tensor):
            return tensor
        parameters = request.input_parameters.get(tensor.name, {})
        return await asyncio.to_thread(
            decode_pictures, spec, tensor, parameters, self.limits, self.space
        )

    def space(self, nbytes: int) -> Array:
        """Allocates memory that the models can map, or process memory if there is no room."""
        space = self._arena.allocate(nbytes) if self._arena is not None else None
        return np.empty(nbytes, np.uint8) if space is None else space


async def off_loop(nbytes: int, work: Callable[..., T], *arguments: Any) -> T:
    """Runs large work in a thread; small work is faster here."""
    if nbytes > _OFF_LOOP_BYTES:
        return await asyncio.to_thread(work, *arguments)
    return work(*arguments)


def total_bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)
