"""Checks the preprocessing settings against a model's inputs and outputs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import openvino as ov

from deployments.datatypes import BYTES
from deployments.dimensions import Dim
from deployments.layouts import LayoutRule
from deployments.model.openvino.runtime import DATATYPE_OF, dim_of, port_layout, port_name
from deployments.model.policy.shapes import PolicyError
from deployments.settings.preprocessing import (
    CHANNELS,
    Algorithm,
    ColorFormat,
    Numbers,
    PerName,
    Precision,
    Preprocessing,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output with its preprocessing settings.

    `dims` are the model's, None if it has no fixed number of them. The layout is the model's own
    if the settings have none.
    """

    kind: Literal["input", "output"]
    name: str
    datatype: str | None
    dims: tuple[Dim, ...] | None
    layout: LayoutRule | None
    precision: Precision | None
    changes: bool
    color: ColorFormat | None = None
    resize: Algorithm = "none"
    mean: Numbers | None = None
    scale: Numbers | None = None

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}'"

    @property
    def computes(self) -> bool:
        values = (self.color, self.mean, self.scale)
        return self.resize != "none" or any(value is not None for value in values)

    def dim(self, name: str, setting: str) -> Dim:
        """A dimension of the model by its name. Raises PolicyError if no layout names it."""
        return self._dims[self._axis(name, setting)]

    def channels(self) -> int | None:
        """The number of channels that the model gets; None if nothing fixes it."""
        if (own := self.dim("C", "mean").fixed) is not None:
            return own
        if self.color is not None:
            return CHANNELS[self.color.source]
        lists = (numbers for numbers in (self.mean, self.scale) if isinstance(numbers, tuple))
        return next((len(numbers) for numbers in lists), None)

    def client_dims(self) -> list[Dim]:
        """The dimensions in the clients' layout, open where the graph changes them."""
        dims = list(self._dims)
        for name, dim in self._decided():
            dims[self._axis(name, "preprocessing")] = dim
        if self.layout is None or not self.layout.transposes:
            return dims
        return [dims[self.layout.source.names.index(name)] for name in self.layout.target.names]

    def held_axes(self) -> frozenset[int]:
        """The axes, in the clients' layout, that the preprocessing fixes."""
        axes = set()
        for name, _ in self._decided():
            assert self.layout is not None
            axis = self.layout.target.axis(name, len(self._dims))
            assert axis is not None
            axes.add(axis)
        return frozenset(axes)

    def _decided(self) -> Iterator[tuple[str, Dim]]:
        """The dimensions that the preprocessing fixes, with the sizes that clients may send.

        The graph would accept other sizes: if it picks three channels it takes four as well, and
        if it resizes a picture without pixels it invents them.
        """
        lists = isinstance(self.mean, tuple) or isinstance(self.scale, tuple)
        if self.color is not None or lists:
            channels = CHANNELS[self.color.target] if self.color else self.channels()
            yield "C", Dim(channels or 0, channels)
        if self.resize != "none":
            yield from (("H", Dim(1, None)), ("W", Dim(1, None)))

    def _axis(self, name: str, setting: str) -> int:
        layout = self.layout.source if self.layout else None
        axis = layout.axis(name, len(self._dims)) if layout else None
        if axis is None:
            known = f"its layout {layout} has none" if layout else "it has no layout"
            raise PolicyError(f"{setting} needs to know the dimension {name} of {self}, {known}")
        return axis

    @property
    def _dims(self) -> tuple[Dim, ...]:
        if self.dims is None:
            raise PolicyError(f"{self} has no fixed number of dimensions to preprocess")
        return self.dims


def resolve_ports(model: ov.Model, settings: Preprocessing) -> tuple[list[Port], list[Port]]:
    """The inputs and outputs with their settings. Raises PolicyError for contradictions."""
    names = _Names(_port_names(model.inputs), _port_names(model.outputs))
    layout = names.both("layout", settings.layout)
    precision = names.both("precision", settings.precision)
    color = names.of_inputs("color_format", settings.color_format)
    # A single `none` applies to all inputs.
    resize: Mapping[str, Algorithm] = (
        {} if settings.resize == "none" else names.of_inputs("resize", settings.resize)
    )
    mean: Mapping[str, Numbers] = names.of_inputs("mean", settings.mean)
    scale: Mapping[str, Numbers] = names.of_inputs("scale", settings.scale)
    inputs = [
        replace(
            port,
            changes=port.changes or any(port.name in s for s in (color, resize, mean, scale)),
            color=color.get(port.name),
            resize=resize.get(port.name, "none"),
            mean=mean.get(port.name),
            scale=scale.get(port.name),
        )
        for port in _ports("input", names.inputs, model.inputs, layout[0], precision[0])
    ]
    outputs = list(_ports("output", names.outputs, model.outputs, layout[1], precision[1]))
    for port in (*inputs, *outputs):
        if port.changes:
            _check(port)
    return inputs, outputs


def _port_names(ports: Sequence[Any]) -> list[str]:
    return [port_name(port, position) for position, port in enumerate(ports)]


def _ports(
    kind: Literal["input", "output"],
    names: Sequence[str],
    ports: Sequence[Any],
    layout: Mapping[str, LayoutRule],
    precision: Mapping[str, Precision],
) -> Iterator[Port]:
    for name, port in zip(names, ports, strict=True):
        shape, own = port.get_partial_shape(), port_layout(port)
        yield Port(
            kind=kind,
            name=name,
            datatype=DATATYPE_OF.get(port.get_element_type()),
            dims=None if shape.rank.is_dynamic else tuple(map(dim_of, shape)),
            layout=layout.get(name, LayoutRule(own, own) if own else None),
            precision=precision.get(name),
            changes=name in layout or name in precision,
        )


@dataclass(frozen=True, slots=True)
class _Names:
    """The names of a model's inputs and outputs, for the lookup of settings."""

    inputs: list[str]
    outputs: list[str]

    def of_inputs(self, setting: str, value: PerName[T]) -> Mapping[str, T]:
        """The setting by input name. Raises PolicyError for a name that the model lacks."""
        if isinstance(value, Mapping):
            for name in value:
                if name not in self.inputs:
                    raise PolicyError(f"{setting} names '{name}', {self._known()}")
            return value
        if len(self.inputs) != 1:
            raise PolicyError(
                f"{setting} is one value for a model of {len(self.inputs)} inputs, "
                f"write one for each: {', '.join(self.inputs)}"
            )
        return {self.inputs[0]: value}

    def both(self, setting: str, value: PerName[T]) -> tuple[Mapping[str, T], Mapping[str, T]]:
        """The setting by input names, and by output names. Raises PolicyError."""
        if not isinstance(value, Mapping):
            return self.of_inputs(setting, value), {}
        for name in value:
            if name in self.inputs and name in self.outputs:
                raise PolicyError(f"{setting} names '{name}', which is an input and an output")
            if name not in self.inputs and name not in self.outputs:
                outputs = f"its outputs {', '.join(self.outputs)}"
                raise PolicyError(f"{setting} names '{name}', {self._known()}, {outputs}")
        return (
            {name: given for name, given in value.items() if name in self.inputs},
            {name: given for name, given in value.items() if name in self.outputs},
        )

    def _known(self) -> str:
        return f"the model's inputs are {', '.join(self.inputs)}"


def _check(port: Port) -> None:
    if port.dims is None:
        raise PolicyError(f"{port} has no fixed number of dimensions to preprocess")
    if port.layout and not port.layout.source.fits(len(port.dims)):
        raise PolicyError(
            f"layout {port.layout.source} is not that of {port}, "
            f"which has {len(port.dims)} dimensions: ({','.join(map(str, port.dims))})"
        )
    _check_datatype(port)
    _check_colors(port)
    _check_per_channel(port)
    _check_resize(port)


def _check_datatype(port: Port) -> None:
    moves = port.layout is not None and port.layout.transposes
    if port.datatype in (BYTES, None) and (port.precision or port.computes or moves):
        raise PolicyError(f"{port} does not hold numbers, it cannot be preprocessed")
    if port.precision and port.precision.source not in (None, port.datatype):
        raise PolicyError(
            f"precision says {port} is {port.precision.source} in the model, it is {port.datatype}"
        )


def _check_colors(port: Port) -> None:
    if port.color is None:
        return
    expected, own = CHANNELS[port.color.source], port.dim("C", "color_format")
    if own.fixed not in (None, expected):
        raise PolicyError(
            f"color_format says {port} is {port.color.source} in the model, of {expected} "
            f"channel{'s' * (expected > 1)}, it has {own}"
        )


def _check_per_channel(port: Port) -> None:
    for setting, numbers in (("mean", port.mean), ("scale", port.scale)):
        if isinstance(numbers, tuple):
            port.dim("C", setting)
            if len(numbers) != (channels := port.channels()):
                raise PolicyError(
                    f"{setting} has {len(numbers)} numbers, {port} has {channels} channels"
                )


def _check_resize(port: Port) -> None:
    if port.resize == "none":
        return
    height, width = port.dim("H", "resize"), port.dim("W", "resize")
    if height.fixed is None or width.fixed is None:
        raise PolicyError(
            f"resize needs a height and width that the model fixes, {port} has {height} x {width}"
        )
