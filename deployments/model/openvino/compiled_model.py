"""A compilation and its inferences. Blocking: call it in worker threads."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import openvino as ov

from deployments.datatypes import BF16, BYTES
from deployments.inference import InputShapes, OutputSpec
from deployments.model.openvino import strings
from deployments.model.openvino.float64 import FP64, narrowed, widened
from deployments.model.openvino.infer_requests import InferRequests
from deployments.model.openvino.recent_shapes import RecentShapes
from deployments.model.openvino.renewal import SelfHealingModel
from deployments.model.openvino.stream_times import StreamTimes
from deployments.tensors import Array, Tensor
from deployments.transport.batches import copied

_NO_KERNELS: Final = {"Const", "Input", "Output", "Reshape", "ShapeOf"}
_NODE: Final = re.compile(r"name '([^']{1,100})'")

Space: TypeAlias = Callable[[int], Array | None]
"""Allocates memory of a number of bytes, or returns None."""


def no_allocation(nbytes: int) -> None:
    """A Space that never allocates."""


class CannotInfer(Exception):
    """Raised when OpenVINO fails on an inference."""


def where_it_failed(error: Exception) -> str:
    """Names the node at which OpenVINO failed, if known; its own error text is for the log."""
    found = _NODE.search(str(error))
    return f" at node '{found[1]}'" if found else ""


class CompiledShape:
    """A compilation for one shape, or for all shapes (dynamic), with its idle infer requests.

    `infer` may run in several threads at once; each call uses an infer request of its own.
    """

    def __init__(
        self, requests: SelfHealingModel | InferRequests, outputs: Sequence[OutputSpec]
    ) -> None:
        self._requests = requests
        self._outputs = outputs
        self._positions = {spec.name: position for position, spec in enumerate(outputs)}
        # The number of infer requests that the device runs at once.
        streams = self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
        self.streams = max(1, int(streams))
        self._times = StreamTimes(self.streams)
        self._built: RecentShapes | None = None

    @property
    def _compiled(self) -> Any:
        """The present compiled model."""
        return self._requests.compiled

    @property
    def computes_in(self) -> str:
        """The precision of its arithmetic, as OpenVINO spells it: `f32`, `bf16`, `f16`."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    @property
    def is_static(self) -> bool:
        """Whether it is for one shape of each input."""
        return not any(port.get_partial_shape().is_dynamic for port in self._compiled.inputs)

    @property
    def kernels(self) -> Counter[str]:
        """The number of kernels that a shape needs, by kind."""
        nodes = self._compiled.get_runtime_model().get_ops()
        kinds = Counter(str(node.get_rt_info()["layerType"].value) for node in nodes)
        return Counter({kind: n for kind, n in kinds.items() if kind not in _NO_KERNELS})

    def remember_kernels_of(self, shapes: int) -> None:
        """Sets the number of recent shapes whose kernels OpenVINO keeps."""
        self._built = RecentShapes(shapes)

    def knows(self, shapes: InputShapes) -> bool:
        """Whether OpenVINO has kernels for these shapes, so that an inference builds none."""
        return self._built is None or shapes in self._built

    def built(self, most: int) -> list[InputShapes]:
        """The latest shapes with kernels, at most `most`."""
        return [] if self._built is None else self._built.latest(most)

    def infer(
        self,
        tensors: Sequence[Tensor],
        wanted: Sequence[str] = (),
        space: Space = no_allocation,
    ) -> list[Tensor]:
        """Runs an inference and returns copies of the wanted outputs (all if empty).

        `tensors` are in the model's order; OpenVINO reads numbers without a copy. `space` allocates
        memory for outputs. Raises CannotInfer.
        """
        shapes = tuple(tensor.shape for tensor in tensors)
        try:
            values = [_to_openvino(tensor) for tensor in tensors]
            done = self._requests.done(shapes, values)
            names = wanted or self._positions
            outputs = [self._output(done.request, self._positions[name], space) for name in names]
        except Exception as error:  # OpenVINO's may be any: RuntimeError, MemoryError, ValueError
            raise CannotInfer(f"OpenVINO reports an error{where_it_failed(error)}") from error
        done.give_back()
        if self._built is not None:
            self._built.add(shapes)
        return outputs

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = no_allocation
    ) -> tuple[list[Tensor], int]:
        """Runs `infer` and returns the nanoseconds that it took, too, once it had a stream."""
        turn = self._times.begin()
        try:
            outputs = self.infer(tensors, wanted, space)
        finally:
            ns = self._times.end(turn)
        return outputs, ns

    def _output(self, request: Any, position: int, space: Space) -> Tensor:
        spec, tensor = self._outputs[position], request.get_output_tensor(position)
        if spec.datatype == BYTES:
            return Tensor(spec.name, BYTES, tuple(tensor.shape), strings.from_openvino(tensor))
        data = tensor.data
        shape = data.shape  # numpy's: iterating over OpenVINO's ends with a C++ exception
        if spec.datatype == BF16:
            data = data.view(np.uint16)
        if spec.datatype == FP64:
            data = widened(data)
        if (place := space(data.nbytes)) is None:
            return Tensor(spec.name, spec.datatype, shape, np.array(data).reshape(shape))
        return Tensor(spec.name, spec.datatype, shape, copied(data.reshape(shape), place))


def _to_openvino(tensor: Tensor) -> Any:
    """Converts a tensor; writable numbers are not copied (OpenVINO requires that), strings are."""
    if isinstance(tensor.data, list):
        return strings.to_openvino(tensor.data, tensor.shape)
    if tensor.datatype == BF16:
        return ov.Tensor(tensor.data, list(tensor.shape), ov.Type.bf16)
    if tensor.datatype == FP64:
        return ov.Tensor(narrowed(tensor.data))
    return ov.Tensor(tensor.data, shared_memory=bool(tensor.data.flags.writeable))
