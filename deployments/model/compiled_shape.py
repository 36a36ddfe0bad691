"""One compilation and its inferences. Blocking, for worker threads."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import numpy as np
import openvino as ov

from deployments.inference import OutputSpec
from deployments.model import strings
from deployments.model.good_shapes import GoodShapes
from deployments.model.last_shapes import Shapes
from deployments.model.streams import StreamTimes
from deployments.tensors import BF16, BYTES, Array, Tensor

_NODE: Final = re.compile(r"name '([^']{1,100})'")

Space: TypeAlias = Callable[[int], Array | None]
"""Has memory for so many bytes, or has not."""


def nowhere(nbytes: int) -> None:
    """A Space that never has."""


class CannotInfer(Exception):
    """Raised when OpenVINO fails on an inference."""


def where_it_failed(error: Exception) -> str:
    """The name of the node OpenVINO stumbled over, or nothing: its own text is for the log."""
    found = _NODE.search(str(error))
    return f" at node '{found[1]}'" if found else ""


class CompiledShape:
    """One compilation, of one shape or of all (dynamic), with its idle infer requests.

    `infer` may run in several threads at once; each takes an infer request of its own.
    """

    def __init__(self, compiled: Any, outputs: Sequence[OutputSpec]) -> None:
        self._compiled = compiled
        self._inputs = compiled.inputs
        self._positions = {spec.name: position for position, spec in enumerate(outputs)}
        self._outputs = outputs
        self._idle: list[Any] = []
        self._good = GoodShapes([[dim.is_dynamic for dim in p.partial_shape] for p in self._inputs])
        # How many infer requests the device runs at once.
        self.streams = max(1, int(compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")))
        self._times = StreamTimes(self.streams)

    @property
    def computes_in(self) -> str:
        """The precision of its arithmetic, as OpenVINO spells it: `f32`, `bf16`, `f16`."""
        return str(self._compiled.get_property("INFERENCE_PRECISION_HINT").to_string())

    @property
    def threads_per_stream(self) -> int:
        """How many threads an inference has."""
        return max(1, int(self._compiled.get_property("INFERENCE_NUM_THREADS")) // self.streams)

    def infer(
        self,
        tensors: Sequence[Tensor],
        wanted: Sequence[str] = (),
        space: Space = nowhere,
    ) -> list[Tensor]:
        """The wanted outputs (all when empty), copied out of OpenVINO's memory.

        `tensors` are in the model's order; OpenVINO reads numbers where they lie. `space` may have
        so many bytes for an output. Raises CannotInfer.
        """
        try:
            request = self._run(tensors)
            names = wanted or self._positions
            outputs = [self._output(request, self._positions[name], space) for name in names]
        except Exception as error:  # OpenVINO's may be any: RuntimeError, MemoryError, ValueError
            raise CannotInfer(f"OpenVINO reports an error{where_it_failed(error)}") from error
        self._idle.append(request)  # one that failed is not used again
        return outputs

    def timed(
        self, tensors: Sequence[Tensor], wanted: Sequence[str] = (), space: Space = nowhere
    ) -> tuple[list[Tensor], int]:
        """What `infer` gives, and how many nanoseconds it took once there was a stream for it."""
        turn = self._times.begin()
        try:
            outputs = self.infer(tensors, wanted, space)
        finally:
            ns = self._times.end(turn)
        return outputs, ns

    def _run(self, tensors: Sequence[Tensor]) -> Any:
        """An infer request with the outputs of these."""
        shapes = tuple(tensor.shape for tensor in tensors)
        values = [_to_openvino(tensor) for tensor in tensors]
        try:
            request = self._done(values)
        except Exception:
            if (request := self._done_again(values, shapes)) is None:
                raise
        self._good.add(shapes)
        return request

    def _done(self, values: Sequence[Any]) -> Any:
        request = self._begun(values)
        request.wait()
        return request

    def _begun(self, values: Sequence[Any]) -> Any:
        """An infer request under way.

        Not `infer`: with one thread it does not raise the errors of nodes that cannot take their
        shapes, and gives outputs with whatever lies in their memory. It decodes strings, too.
        """
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.reset_state()  # what a recurrent model remembers is another request's
        for position, value in enumerate(values):
            request.set_input_tensor(position, value)
        request.start_async()
        return request

    def _done_again(self, values: Sequence[Any], shapes: Shapes) -> Any | None:
        """The request, if it failed only because an inference before it had."""
        if shapes not in self._good or not self._good.can_vary:
            return None
        for other in self._good.others(shapes):
            with suppress(Exception):
                self._run_in_all_streams(other)
            with suppress(Exception):
                return self._done(values)
        return None

    def _run_in_all_streams(self, shapes: Shapes) -> None:
        """Zeros of these shapes, in as many infer requests at once as there are streams."""
        values = [
            _zeros(port.get_element_type(), shape)
            for port, shape in zip(self._inputs, shapes, strict=True)
        ]
        requests = [self._begun(values) for _ in range(self.streams)]
        for request in requests:
            with suppress(Exception):
                request.wait()

    def _output(self, request: Any, position: int, space: Space) -> Tensor:
        spec, tensor = self._outputs[position], request.get_output_tensor(position)
        if spec.datatype == BYTES:
            return Tensor(spec.name, BYTES, tuple(tensor.shape), strings.from_openvino(tensor))
        data = tensor.data
        shape = data.shape  # OpenVINO's own ends an iteration by a C++ exception
        if spec.datatype == BF16:
            data = data.view(np.uint16)
        if (place := space(data.nbytes)) is None:
            return Tensor(spec.name, spec.datatype, shape, np.array(data).reshape(shape))
        copy = place.view(data.dtype).reshape(shape)
        copy[...] = data.reshape(shape)
        return Tensor(spec.name, spec.datatype, shape, copy)


def _zeros(datatype: ov.Type, shape: Sequence[int]) -> ov.Tensor:
    tensor = ov.Tensor(datatype, ov.Shape(list(shape)))
    if datatype != ov.Type.string:
        tensor.data.fill(0)
    return tensor


def _to_openvino(tensor: Tensor) -> Any:
    """Numbers stay where they are if writable (OpenVINO insists); strings are copied."""
    if isinstance(tensor.data, list):
        return strings.to_openvino(tensor.data, tensor.shape)
    if tensor.datatype == BF16:
        return ov.Tensor(tensor.data, list(tensor.shape), ov.Type.bf16)
    return ov.Tensor(tensor.data, shared_memory=bool(tensor.data.flags.writeable))
