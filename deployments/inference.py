"""What the two deployments say to each other: requests, answers and what a model takes.

A request's *shape key* holds, for every input in the model's order, its dimensions with -1 in
place of the batch dimension. Requests with equal keys can run in one compiled model, and
together in one batch.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2s
from math import prod
from typing import Any, Literal, TypeAlias

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
from deployments.tensors import COMPUTED_IN, Tensor

ShapeKey: TypeAlias = tuple[tuple[int, ...], ...]

InputShapes: TypeAlias = tuple[tuple[int, ...], ...]
"""The shape of each input of a request, in the model's order."""


def shape_number(revision: str, key: ShapeKey) -> int:
    """64 bits that name a shape of a version, equal in all processes, unlike `hash`."""
    return int.from_bytes(blake2s(repr((revision, key)).encode(), digest_size=8).digest(), "little")


def elements_per_row(key: ShapeKey) -> int:
    """Of all inputs, without the dimensions that are open."""
    return sum(prod(size for size in shape if size >= 0) for shape in key)


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input: `dims` is what the shape policy accepts, `batch_axis` where the rows are.

    `pictures` is the layout of an input that encoded pictures can be decoded into, with their
    channels in the order of `colors`. `layout` is what is known of the dimensions' meaning.
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
        """The dimensions as clients are told them: -1 for open ones."""
        return spelled_sizes(self.dims)

    def check(self, tensor: Tensor) -> None:
        """Raises the InvalidRequest that says why the model does not take this tensor."""
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
        """The dimensions as clients are told them: -1 for open ones."""
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
    """What a loaded model version takes and gives. Does not change with traffic.

    `versions` are all that can answer, `labels` are names for some. Versions that take and give
    the same have the same `revision`: what was prepared for one can be sent to the other. Requests
    of shapes with up to `stacked_elements` a row are stacked, none where that is negative.
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
        """Whether requests of this key run together."""
        return elements_per_row(key) <= self.stacked_elements

    @cached_property
    def revision(self) -> str:
        """Names the version and what it takes and gives, alike in all processes."""
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
        """Shapes or a key in words, by the inputs' names: `x [1,4], mask [1,4]`."""
        return ", ".join(
            f"{spec.name} {dims(shape)}" for spec, shape in zip(self.inputs, shapes, strict=True)
        )

    def key_and_rows(self, tensors: Sequence[Tensor], max_rows: int) -> tuple[ShapeKey, int]:
        """The shape key of arranged tensors and how many rows they bring.

        Inputs that disagree on the number of rows keep their whole shapes in the key.
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
    """The datatypes of its inputs and outputs that the device narrows, and to which."""
    datatypes = {port.datatype for port in info.inputs} | {port.datatype for port in info.outputs}
    return {wide: narrow for wide, narrow in COMPUTED_IN.items() if wide in datatypes}


def rows_of_inputs(specs: Sequence[InputSpec], shapes: Sequence[Sequence[int]]) -> set[int]:
    """How many rows shapes or keys have: one number unless they disagree, none without batches."""
    return {
        shape[spec.batch_axis]
        for spec, shape in zip(specs, shapes, strict=True)
        if spec.batch_axis is not None
    }


@dataclass(frozen=True, slots=True)
class InferRequest:
    """One inference call, whatever protocol it came by.

    `outputs` are the wanted outputs with their parameters, empty for all of the model's.
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
    """A version; `info` is there for as long as it answers.

    One that answers may have a reason too: why it is not what its files hold by now.
    """

    version: str
    state: ModelState
    reason: str = ""
    info: ModelInfo | None = None


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """Whether a model can answer, and in words why it cannot; its versions, lowest first.

    A model that answers may have a reason too: what is wrong with its settings or its source.
    """

    state: ModelState
    reason: str = ""
    versions: tuple[VersionStatus, ...] = ()

    @property
    def info(self) -> ModelInfo | None:
        """The version that answers where a request names none: the highest that can."""
        return next((version.info for version in reversed(self.versions) if version.info), None)

    def of(self, version: str) -> ModelInfo | None:
        """What the version takes and gives, if it can answer."""
        return next((v.info for v in self.versions if v.version == version and v.info), None)


def available(info: ModelInfo) -> ModelStatus:
    """The status of a model with one version."""
    return ModelStatus("AVAILABLE", "", (VersionStatus(info.version, "AVAILABLE", "", info),))
