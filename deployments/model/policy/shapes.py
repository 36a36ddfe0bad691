"""The shape policy: the meaning of `shape` and `batch_size` for a model's inputs.

The spelling is OpenVINO Model Server's. The policy decides from the settings and the model
alone, before anything is compiled.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final, Literal, TypeAlias

from deployments.datatypes import BYTES
from deployments.dimensions import Dim, ShapeRule
from deployments.inference import InputShapes, InputSpec, ShapeKey, rows_of_inputs
from deployments.layouts import REST, UNNAMED, Layout
from deployments.model.openvino.runtime import ModelInput

ANY: Final = Dim(0, None)
Dims: TypeAlias = tuple[Dim, ...]
Reshapes: TypeAlias = Callable[[Sequence[Sequence[Dim | int]]], bool]
"""Returns whether the model can be reshaped to these shapes of its inputs."""

_PICTURE_CHANNELS: Final = (1, 3)
_TRIAL_SIZES: Final = (64, 224, 32, 300, 16, 8, 128, 4, 2, 1)


class PolicyError(Exception):
    """Raised when the shape settings contradict the model."""


def accepted_dims(
    inputs: Sequence[ModelInput],
    rules: ShapeRule | Mapping[str, ShapeRule],
    batch_size: int | Literal["auto"],
    reshapes: Reshapes,
) -> tuple[Dims, ...]:
    """The dimensions that each input accepts, in the model's order. Raises PolicyError.

    Under `auto` a dimension is open if the model can be reshaped along it: a picture's height, but
    not the channels that the first weights fix.
    """
    by_name = _rules_by_name(inputs, rules)
    wanted = [_wanted(tensor, by_name.get(tensor.name)) for tensor in inputs]
    if isinstance(batch_size, int):
        _check_batches(inputs, batch_size)
        wanted = [
            _with_batch(tensor, dims, batch_size, by_name.get(tensor.name))
            for tensor, dims in zip(inputs, wanted, strict=True)
        ]
    accepted = _narrowed(inputs, wanted, by_name, reshapes)
    _check_possible(inputs, accepted, reshapes)
    return accepted


def _rules_by_name(
    inputs: Sequence[ModelInput], rules: ShapeRule | Mapping[str, ShapeRule]
) -> dict[str, ShapeRule]:
    names = [tensor.name for tensor in inputs]
    if isinstance(rules, Mapping):
        if unknown := sorted(rules.keys() - set(names)):
            raise PolicyError(
                f"shape names input '{unknown[0]}', the model's inputs are {', '.join(names)}"
            )
        return dict(rules)
    if rules != "auto" and len(inputs) > 1:
        raise PolicyError(
            f"shape is one shape for a model of {len(inputs)} inputs, "
            f"write one for each: {', '.join(names)}"
        )
    return dict.fromkeys(names, rules)


def _wanted(tensor: ModelInput, rule: ShapeRule | None) -> Dims:
    if rule is None:
        return tensor.dims
    if rule == "auto":
        return tuple(
            ANY if dim.fixed is not None and axis not in tensor.held else dim
            for axis, dim in enumerate(tensor.dims)
        )
    if len(rule) != len(tensor.dims):
        raise PolicyError(
            f"shape {_written(rule)} has {len(rule)} dimensions, "
            f"input '{tensor.name}' has {len(tensor.dims)}"
        )
    return tuple(
        _held(tensor, axis, dim) if axis in tensor.held else dim for axis, dim in enumerate(rule)
    )


def _held(tensor: ModelInput, axis: int, dim: Dim) -> Dim:
    """The part of `dim` that the preprocessing takes. Raises PolicyError if there is none."""
    own = tensor.dims[axis]
    ends = [end for end in (own.maximum, dim.maximum) if end is not None]
    lowest, highest = max(own.minimum, dim.minimum), min(ends, default=None)
    if highest is not None and highest < lowest:
        raise PolicyError(
            f"shape of input '{tensor.name}' has {dim} at dimension {axis}, "
            f"its preprocessing takes {own} there"
        )
    return Dim(lowest, highest)


def _check_batches(inputs: Sequence[ModelInput], batch_size: int) -> None:
    layouts = [f"{tensor.name} {tensor.layout}" for tensor in inputs if tensor.layout is not None]
    if layouts and all(tensor.batch_axis is None for tensor in inputs):
        raise PolicyError(
            f"batch_size is {batch_size}, but no input has a batch N: {', '.join(layouts)}"
        )


def _with_batch(tensor: ModelInput, dims: Dims, batch_size: int, rule: ShapeRule | None) -> Dims:
    axis = tensor.batch_axis
    if axis is None:
        return dims
    if rule not in (None, "auto") and not dims[axis].accepts(batch_size):
        raise PolicyError(
            f"batch_size {batch_size} contradicts shape {_written(dims)} of input '{tensor.name}'"
        )
    return (*dims[:axis], Dim(batch_size, batch_size), *dims[axis + 1 :])


def _narrowed(
    inputs: Sequence[ModelInput],
    wanted: Sequence[Dims],
    by_name: Mapping[str, ShapeRule],
    reshapes: Reshapes,
) -> tuple[Dims, ...]:
    """`wanted`, with those dimensions of `auto` inputs closed that the model cannot change.

    Dimensions that the model itself leaves open stay open.
    """
    shapes: list[list[Dim | int]] = [
        [dim if dim.fixed is None else dim.fixed for dim in tensor.dims] for tensor in inputs
    ]
    accepted = [list(dims) for dims in wanted]
    for place, tensor in enumerate(inputs):
        if by_name.get(tensor.name) != "auto":
            continue
        for axis, size in enumerate(shapes[place]):
            if (
                isinstance(size, int)
                and accepted[place][axis] == ANY
                and not _can_change(shapes, place, axis, size, reshapes)
            ):
                accepted[place][axis] = Dim(size, size)
    return tuple(map(tuple, accepted))


def _can_change(
    shapes: list[list[Dim | int]], place: int, axis: int, size: int, reshapes: Reshapes
) -> bool:
    """Whether one dimension can change, alone or with all others of its size.

    Inputs that belong together, like token ids and their mask, change together or not at all.
    """
    for new in (size + 1, 2 * size or 2, size + 32):
        alone = [list(shape) for shape in shapes]
        alone[place][axis] = new
        together = [[new if n == size else n for n in shape] for shape in shapes]
        same_axis = [
            [new if (i == axis and n == size) else n for i, n in enumerate(shape)]
            for shape in shapes
        ]
        if any(reshapes(candidate) for candidate in (alone, same_axis, together)):
            return True
    return False


def _check_possible(
    inputs: Sequence[ModelInput], accepted: tuple[Dims, ...], reshapes: Reshapes
) -> None:
    if accepted == tuple(tensor.dims for tensor in inputs) or reshapes(accepted):
        return
    if not any(reshapes(shapes) for shapes in trial_shapes(inputs, accepted)):
        asked = zip(inputs, accepted, strict=True)
        written = ", ".join(f"{tensor.name} {_written(dims)}" for tensor, dims in asked)
        raise PolicyError(
            f"the model cannot be reshaped to {written}, which shape and batch_size ask for"
        )


def never_empty(accepted: Sequence[Dims]) -> tuple[Dims, ...]:
    """The same dimensions without the size 0, unless that is the only one."""
    return tuple(
        tuple(dim if dim.maximum == 0 else Dim(max(1, dim.minimum), dim.maximum) for dim in dims)
        for dims in accepted
    )


def _written(dims: Dims) -> str:
    return f"({','.join(map(str, dims))})"


def with_batch_axis(
    inputs: Sequence[ModelInput], accepted: Sequence[Dims], reshapes: Reshapes
) -> tuple[InputSpec, ...]:
    """The inputs' specs, with a batch axis if it can stay open in a compilation."""
    specs = tuple(_spec(tensor, dims) for tensor, dims in zip(inputs, accepted, strict=True))
    with_batch = tuple(
        spec
        if tensor.batch_axis is None or spec.dims[tensor.batch_axis].fixed is not None
        else replace(spec, batch_axis=tensor.batch_axis)
        for tensor, spec in zip(inputs, specs, strict=True)
    )
    for shapes in trial_shapes(inputs, accepted):
        if reshapes(to_compile(with_batch, trial_key(with_batch, shapes))):
            return with_batch
    return specs


def _spec(tensor: ModelInput, dims: Dims) -> InputSpec:
    return InputSpec(
        tensor.name,
        tensor.datatype,
        dims,
        pictures=_pictures(tensor, dims),
        colors=tensor.colors,
        layout=None if tensor.layout is None else str(tensor.layout),
    )


def _pictures(tensor: ModelInput, dims: Dims) -> Literal["NCHW", "NHWC"] | None:
    """The layout of pictures, if the input can take them; the channels show an undeclared one."""
    if len(dims) != 4 or tensor.datatype == BYTES:
        return None
    if dims[1].fixed in _PICTURE_CHANNELS and _can_be(tensor.layout, "NCHW"):
        return "NCHW"
    if dims[3].fixed in _PICTURE_CHANNELS and _can_be(tensor.layout, "NHWC"):
        return "NHWC"
    return None


def _can_be(layout: Layout | None, whole: str) -> bool:
    """Whether a layout does not contradict `whole`."""
    return layout is None or all(
        name in (UNNAMED, REST) or layout.axis(name, len(whole)) == whole.find(name)
        for name in layout.names
    )


def trial_shapes(
    inputs: Sequence[ModelInput], accepted: Sequence[Dims]
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Shapes at which to try the model: its own sizes where it has them, else guesses.

    The batch is 1 if that is accepted; the last shapes have the model's own batch.
    """
    tries = [*((guess, True) for guess in _TRIAL_SIZES), (_TRIAL_SIZES[0], False)]
    yield from dict.fromkeys(
        tuple(
            tuple(
                1
                if one_row and axis == tensor.batch_axis and dim.accepts(1)
                else _trial_size(own, dim, guess)
                for axis, (own, dim) in enumerate(zip(tensor.dims, dims, strict=True))
            )
            for tensor, dims in zip(inputs, accepted, strict=True)
        )
        for guess, one_row in tries
    )


def _trial_size(own: Dim, accepted: Dim, guess: int) -> int:
    if own.fixed is not None and accepted.accepts(own.fixed):
        return own.fixed
    if accepted.accepts(guess):
        return guess
    return accepted.minimum or (1 if accepted.accepts(1) else 0)


def scaled(specs: Sequence[InputSpec], shapes: InputShapes, factor: float) -> InputShapes:
    """The shapes, with every open dimension except the batch scaled if the result is accepted."""
    return tuple(
        tuple(
            larger_or_smaller
            if axis != spec.batch_axis
            and spec.dims[axis].fixed is None
            and (larger_or_smaller := int(size * factor)) > 0
            and spec.dims[axis].accepts(larger_or_smaller)
            else size
            for axis, size in enumerate(shape)
        )
        for spec, shape in zip(specs, shapes, strict=True)
    )


def trial_key(specs: Sequence[InputSpec], shapes: Sequence[Sequence[int]]) -> ShapeKey:
    """The shape key of requests with these shapes."""
    return tuple(
        tuple(-1 if axis == spec.batch_axis else size for axis, size in enumerate(shape))
        for spec, shape in zip(specs, shapes, strict=True)
    )


def one_row(key: ShapeKey) -> ShapeKey:
    """The key of one-row requests, with 1 instead of -1."""
    return tuple(tuple(1 if size == -1 else size for size in shape) for shape in key)


def any_rows(specs: Sequence[InputSpec], key: ShapeKey) -> ShapeKey:
    """The key of requests with any number of rows; the inverse of `one_row`."""
    return trial_key(specs, key) if rows_of_inputs(specs, key) == {1} else key


def to_compile(specs: Sequence[InputSpec], key: ShapeKey) -> tuple[tuple[Dim | int, ...], ...]:
    """The shapes to reshape to for a key: -1 becomes the range that the dimension accepts."""
    return tuple(
        tuple(spec.dims[axis] if size == -1 else size for axis, size in enumerate(shape))
        for spec, shape in zip(specs, key, strict=True)
    )
