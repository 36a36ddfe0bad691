"""Reads, reshapes and compiles models. Blocking: call it in worker threads.

The rest of the project uses models through the types that this module returns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import openvino as ov

from deployments.datatypes import DATATYPES
from deployments.dimensions import LARGEST, Dim
from deployments.inference import OutputSpec
from deployments.layouts import Layout, batch_axis, named
from deployments.model.openvino.compile_cache import CompileCache
from deployments.model.openvino.compiled_model import CompiledShape, where_it_failed
from deployments.model.openvino.float64 import in_float32
from deployments.model.openvino.infer_requests import InferRequests
from deployments.model.openvino.renewal import SelfHealingModel
from deployments.model.openvino.reshaping import ReshapePreview, reshaped
from deployments.model.openvino.spots import spots_model

BUILT_IN: Final = {"builtin:spots": spots_model}

DATATYPE_OF: Final = {
    getattr(ov.Type, datatype.openvino): name for name, datatype in DATATYPES.items()
}
KERNEL_CACHE: Final = "CPU_RUNTIME_CACHE_CAPACITY"
"""Kernels of each kind that a stream of a dynamic compilation keeps; the default is 5,000."""
_PRECISION_SETTINGS: Final = {"INFERENCE_PRECISION_HINT", "EXECUTION_MODE_HINT"}
_SIZES: Final = (ov.Type.i32, ov.Type.i64)
"""Inputs of these types may hold sizes: the target of a Reshape, say."""
_STALE_WHEN_EMPTY: Final = {"StringTensorUnpack", "Unique"}
"""For an empty tensor, these operations give the previous request's output in the CPU plugin."""


Model: TypeAlias = ov.Model
"""A model as OpenVINO read it."""


class CannotLoad(Exception):
    """Raised when OpenVINO refuses a model's files, its settings or its datatypes."""


class CannotReshape(Exception):
    """Raised when a model cannot be reshaped or compiled at some shape."""


@dataclass(frozen=True, slots=True)
class ModelInput:
    """An input as the model's file declares it, or the preprocessing in front of it.

    `held` are the dimensions that the preprocessing fixes: the model can be reshaped to other sizes
    of them, but answers wrongly. `colors` is the order of channels that clients send.
    """

    name: str
    datatype: str
    dims: tuple[Dim, ...]
    layout: Layout | None = None
    held: frozenset[int] = frozenset()
    colors: Literal["BGR", "RGB"] = "BGR"

    @property
    def batch_axis(self) -> int | None:
        return batch_axis(self.layout, len(self.dims))

    @property
    def static_shape(self) -> tuple[int, ...] | None:
        sizes = [dim.fixed for dim in self.dims]
        return None if None in sizes else tuple(size for size in sizes if size is not None)


def dim_of(dim: ov.Dimension) -> Dim:
    largest = dim.get_max_length()
    # A bound that OpenVINO derives from an open dimension may be unreachably large.
    return Dim(dim.get_min_length(), largest if 0 <= largest <= LARGEST else None)


def port_name(port: Any, position: int) -> str:
    """The shortest of a port's names, which is the one without OpenVINO's suffixes."""
    names = sorted(port.get_names(), key=lambda name: (len(name), name))
    return names[0] if names else port.get_node().get_friendly_name() or f"port_{position}"


def port_layout(port: Any) -> Layout | None:
    """The layout of an input or output, from its node."""
    return named(port.get_node().get_layout().to_string())


def _named(
    ports: Sequence[Any], kind: str
) -> Iterator[tuple[str, str, ov.PartialShape, Layout | None]]:
    """The name, datatype, shape and layout of each port. Raises CannotLoad."""
    seen: set[str] = set()
    for position, port in enumerate(ports):
        name = port_name(port, position)
        datatype = DATATYPE_OF.get(port.get_element_type())
        if datatype is None:
            raise CannotLoad(
                f"{kind} '{name}' has element type {port.get_element_type()}, which is not served"
            )
        if name in seen:
            raise CannotLoad(f"the model has two {kind}s named '{name}'")
        seen.add(name)
        yield name, datatype, port.get_partial_shape(), port_layout(port)


class Runtime:
    """OpenVINO for one model: its core, the device and the plugin's properties."""

    def __init__(
        self,
        device: str,
        plugin_config: Mapping[str, Any],
        blobs: CompileCache | None = None,
    ) -> None:
        """With `blobs`, earlier compilations are read from there."""
        self._core = ov.Core()
        # If a mapped file is overwritten, the process ends with a bus error, or results change.
        self._core.set_property({"ENABLE_MMAP": False})
        self._device = device
        self._blobs = blobs
        self._config: dict[str, Any] = dict(plugin_config)
        if not self._config.keys() & {"PERFORMANCE_HINT", "NUM_STREAMS"}:
            self._config["PERFORMANCE_HINT"] = "THROUGHPUT"
        if device == "CPU":
            # Other processes use the cores too, maybe just the one to which a thread is pinned.
            self._config.setdefault("ENABLE_CPU_PINNING", False)

    def read(self, source: str | Path) -> ov.Model:
        """Reads a model. Raises CannotLoad."""
        if isinstance(source, str):
            return BUILT_IN[source]()
        try:
            return self._core.read_model(source)
        except Exception as error:
            raise CannotLoad(
                f"OpenVINO cannot read {source.name}{where_it_failed(error)}"
            ) from error

    def inputs(self, model: ov.Model) -> tuple[ModelInput, ...]:
        """The model's inputs. Raises CannotLoad."""
        found = []
        for name, datatype, shape, layout in _named(model.inputs, "input"):
            if shape.rank.is_dynamic:
                raise CannotLoad(f"input '{name}' has no fixed number of dimensions")
            found.append(ModelInput(name, datatype, tuple(map(dim_of, shape)), layout))
        return tuple(found)

    def mixes_up_empty(self, model: ov.Model) -> bool:
        """Whether a request with an empty tensor could get another request's data."""
        return any(node.get_type_name() in _STALE_WHEN_EMPTY for node in model.get_ops())

    def weight_bytes(self, model: ov.Model) -> int:
        """The size of the model's constants as in its file, except in loops and branches."""
        constants = [node for node in model.get_ops() if node.get_type_name() == "Constant"]
        return sum(node.get_byte_size() for node in constants)

    def outputs(self, model: ov.Model) -> tuple[OutputSpec, ...]:
        """The model's outputs; one of unknown rank has one open dimension here."""
        return tuple(
            OutputSpec(
                name,
                datatype,
                (Dim(0, None),) if shape.rank.is_dynamic else tuple(map(dim_of, shape)),
                None if layout is None else str(layout),
            )
            for name, datatype, shape, layout in _named(model.outputs, "output")
        )

    def detections(self, model: ov.Model) -> list[bool]:
        """For each output, whether a DetectionOutput makes it."""
        makers = (port.get_node().input_value(0).get_node() for port in model.outputs)
        return [maker.get_type_name() == "DetectionOutput" for maker in makers]

    def reshaped(self, model: ov.Model, shapes: Sequence[Sequence[Dim | int]]) -> ov.Model:
        """A copy of the model at these shapes, in the order of its inputs; shares the weights.

        Pass the model as read: a reshaped model may have folded away what a second reshape needs.
        Raises CannotReshape.
        """
        try:
            return reshaped(model, shapes)
        except Exception as error:
            raise CannotReshape(f"the model refuses it{where_it_failed(error)}") from error

    @property
    def keeps_kernels(self) -> bool:
        """Whether anyshape can set how many kernels the device keeps for a dynamic compilation."""
        return self._device == "CPU" and KERNEL_CACHE not in self._config

    @property
    def chooses_precision(self) -> bool:
        """Whether the processor, not the settings, decides the precision of the arithmetic."""
        return self._device == "CPU" and not self._config.keys() & _PRECISION_SETTINGS

    def reference(self) -> "Runtime":
        """A Runtime that compiles a model in another way, to decide which answer is right."""
        if self._device == "CPU":
            return Runtime("CPU", {**self._config, "SNIPPETS_MODE": "DISABLE"})
        return Runtime("CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def compile(self, model: ov.Model, **more: Any) -> CompiledShape:
        """Compiles a model, with `more` properties beside the settings'. Raises CannotReshape."""
        config = {**self._config, **more}
        is_open = model.is_dynamic()
        if self._blobs and (place := self._blobs.place(_shapes_of(model))) is not None:
            config["CACHE_DIR"] = str(place)
        compile_it = partial(self._core.compile_model, in_float32(model), self._device, config)
        try:
            requests = self._renewed(model, compile_it) if is_open else InferRequests(compile_it())
            compiled = CompiledShape(requests, self.outputs(model))
        except Exception as error:
            raise CannotReshape(f"OpenVINO cannot compile it{where_it_failed(error)}") from error
        if self._blobs:
            self._blobs.prune()
        return compiled

    def _renewed(self, model: ov.Model, compile_it: Callable[[], Any]) -> SelfHealingModel:
        return SelfHealingModel(
            compile_it,
            ReshapePreview(model).says_it_runs,
            values_matter=any(port.get_element_type() in _SIZES for port in model.inputs),
        )


def _shapes_of(model: ov.Model) -> str:
    return " ".join(str(port.get_partial_shape()) for port in model.inputs)
