"""The types that the ingress and the models exchange: requests, answers, models' inputs and states.

A request's *shape key* has the dimensions of each input, in the model's order, with -1 for the
batch. Requests with equal keys can run in one compiled model, and together in one batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2s
from math import prod
from typing import Any, Literal, TypeAlias

from deployments.datatypes import COMPUTED_IN
from deployments.dimensions import Dim
from deployments.errors import (
    DuplicateName,
    LimitExceeded,
    MissingInput,
    UnknownInput,
    UnknownOutput,
    WrongDatatype,
    WrongDimension,
    WrongRank,
    dims,
)
from deployments.tensors import Tensor

ShapeKey: TypeAlias = tuple[tuple[int, ...], ...]

InputShapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shape of each input of a request, in the model's order."""


def is_open(key: ShapeKey) -> bool:
    """Whether the key is for any number of rows."""
    return any(-1 in shape for shape in key)


def shape_number(revision: str, key: ShapeKey) -> int:
    """A 64-bit number for a shape of a version, equal in all processes, unlike `hash`."""
    return int.from_bytes(blake2s(repr((revision, key)).encode(), digest_size=8).digest(), "little")


def elements_per_row(key: ShapeKey) -> int:
    """The elements of all inputs in one row, without open dimensions."""
    return sum(prod(size for size in shape if size >= 0) for shape in key)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """An input of a model: the shape policy accepts `dims`, and `batch_axis` is the axis of rows.

    `pictures` is the layout of an input that takes encoded pictures, and `colors` the order of
    their channels. `layout` is the meaning of the dimensions, if known.
    """

    name: str
    datatype: str
    dims: tuple[Dim, ...]
    batch_axis: int | None = None
    pictures: Literal["NCHW", "NHWC"] | None = None
    colors: Literal["BGR", "RGB"] = "BGR"
    layout: str | None = None

    @property
    def sizes(self) -> list[int]:
        """The dimensions as the API reports them: -1 for open ones."""
        return spelled_sizes(self.dims)

    def check(self, tensor: Tensor) -> None:
        """Raises an InvalidRequest if the model does not take this tensor."""
        if tensor.datatype != self.datatype:
            raise WrongDatatype(self.name, tensor.datatype, self.datatype)
        expected = [str(dim) for dim in self.dims]
        if len(tensor.shape) != len(self.dims):
            raise WrongRank(self.name, tensor.shape, expected)
        for axis, (dim, size) in enumerate(zip(self.dims, tensor.shape, strict=True)):
            if not dim.accepts(size):
                raise WrongDimension(self.name, axis, tensor.shape, expected)


@dataclass(frozen=True, slots=True)
class OutputSpec:
    name: str
    datatype: str
    dims: tuple[Dim, ...]
    layout: str | None = None

    @property
    def sizes(self) -> list[int]:
        """The dimensions as the API reports them: -1 for open ones."""
        return spelled_sizes(self.dims)


def spelled_sizes(dims: Sequence[Dim]) -> list[int]:
    return [-1 if dim.fixed is None else dim.fixed for dim in dims]


def wanted_outputs(
    entries: Iterable[tuple[str, Mapping[str, Any]]],
) -> dict[str, Mapping[str, Any]]:
    """The outputs that a request names, with their parameters. Raises DuplicateName."""
    wanted: dict[str, Mapping[str, Any]] = {}
    for name, parameters in entries:
        if name in wanted:
            raise DuplicateName("output", name)
        wanted[name] = parameters
    return wanted


@dataclass(frozen=True)
class ModelInfo:
    """The inputs and outputs of a loaded model version; they do not change with traffic.

    `versions` are all that can answer, `labels` are names for some. Versions with equal inputs and
    outputs have the same `revision`: a request prepared for one can be sent to the other. Requests
    of shapes with up to `stacked_elements` a row are stacked; none if that is negative.
    """

    name: str
    version: str
    versions: tuple[str, ...]
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    max_batch_rows: int
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    stacked_elements: float = -1.0

    def stacks(self, key: ShapeKey) -> bool:
        """Whether requests of this key are stacked into one tensor."""
        return elements_per_row(key) <= self.stacked_elements

    @cached_property
    def revision(self) -> str:
        """An id of the version with its inputs and outputs, equal in all processes."""
        taken = repr((self.version, self.inputs, self.outputs)).encode()
        return f"{self.version}-{blake2s(taken, digest_size=8).hexdigest()}"

    def arrange(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The tensors in the model's order, each checked against its input."""
        given: dict[str, Tensor] = {}
        for tensor in tensors:
            if tensor.name in given:
                raise DuplicateName("input", tensor.name)
            given[tensor.name] = tensor
        known = [spec.name for spec in self.inputs]
        if unknown := given.keys() - set(known):
            raise UnknownInput(self.name, min(unknown), known)
        for spec in self.inputs:
            if spec.name not in given:
                raise MissingInput(self.name, spec.name)
            spec.check(given[spec.name])
        return tuple(given[name] for name in known)

    def check_outputs(self, wanted: Sequence[str]) -> None:
        known = [spec.name for spec in self.outputs]
        for position, name in enumerate(wanted):
            if name not in known:
                raise UnknownOutput(self.name, name, known)
            if name in wanted[:position]:
                raise DuplicateName("output", name)

    def spelled(self, shapes: Sequence[Sequence[int]]) -> str:
        """Spells shapes or a key with the inputs' names: `x [1,4], mask [1,4]`."""
        return ", ".join(
            f"{spec.name} {dims(shape)}" for spec, shape in zip(self.inputs, shapes, strict=True)
        )

    def key_and_rows(self, tensors: Sequence[Tensor], max_rows: int) -> tuple[ShapeKey, int]:
        """The shape key of arranged tensors, and their number of rows.

        If the inputs disagree on the number of rows, the key has their whole shapes.
        """
        shapes = [tensor.shape for tensor in tensors]
        axes = [spec.batch_axis for spec in self.inputs]
        rows = rows_of_inputs(self.inputs, shapes)
        if rows and max(rows) > max_rows:
            raise LimitExceeded("batch", max(rows), "batch_rows", max_rows)
        if len(rows) != 1:
            return tuple(shapes), 1
        key = tuple(
            shape if axis is None else (*shape[:axis], -1, *shape[axis + 1 :])
            for shape, axis in zip(shapes, axes, strict=True)
        )
        return key, rows.pop()


def computed_in(info: ModelInfo) -> dict[str, str]:
    """The datatypes of inputs and outputs that the device narrows, with the narrower one."""
    datatypes = {port.datatype for port in info.inputs} | {port.datatype for port in info.outputs}
    return {wide: narrow for wide, narrow in COMPUTED_IN.items() if wide in datatypes}


def rows_of_inputs(specs: Sequence[InputSpec], shapes: Sequence[Sequence[int]]) -> set[int]:
    """The row counts of shapes or keys: one unless they disagree, none without a batch."""
    return {
        shape[spec.batch_axis]
        for spec, shape in zip(specs, shapes, strict=True)
        if spec.batch_axis is not None
    }


@dataclass(frozen=True, slots=True)
class InferRequest:
    """An inference request of any protocol.

    `outputs` are the requested outputs with their parameters; empty means all outputs.
    """

    tensors: tuple[Tensor, ...]
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    id: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    input_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InferResponse:
    model: str
    version: str
    tensors: tuple[Tensor, ...]
    id: str | None = None


ModelState: TypeAlias = Literal["LOADING", "AVAILABLE", "UNAVAILABLE", "UNLOADING"]


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The status of a version; it has an `info` for as long as it answers.

    A version that answers may have a reason too: why it differs from its present files.
    """

    version: str
    state: ModelState
    reason: str = ""
    info: ModelInfo | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """The status of a model, with the reason if it cannot answer; its versions, lowest first.

    A model that answers may have a reason too: an error of its settings or its source.
    """

    state: ModelState
    reason: str = ""
    versions: tuple[VersionStatus, ...] = ()

    @property
    def info(self) -> ModelInfo | None:
        """The version that answers requests that name none: the highest available one."""
        return next((version.info for version in reversed(self.versions) if version.info), None)

    def of(self, version: str) -> ModelInfo | None:
        """The inputs and outputs of the version, if it can answer."""
        return next((v.info for v in self.versions if v.version == version and v.info), None)


def available(info: ModelInfo) -> ModelStatus:
    """The status of a model with one version."""
    return ModelStatus("AVAILABLE", "", (VersionStatus(info.version, "AVAILABLE", "", info),))
