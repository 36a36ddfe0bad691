"""Errors of a request, one class for each failure, with its HTTP status and gRPC code.

Each class builds its text from the data it is given, so that a failure has the same text over every
protocol. Errors travel between processes, so they can be pickled.
"""

import reprlib
from collections.abc import Sequence
from typing import Any, ClassVar, Final

CLIENT_LEFT: Final = 499
"""The status of a request whose client disconnected before the answer, as in nginx."""

# For clients' values, which may be longer or nested deeper than Python can print.
_brief: Final = reprlib.Repr()
_brief.maxlist = 32


class ServingError(Exception):
    """Base of all failures that are reported to a client."""

    http_status: ClassVar[int] = 500
    grpc_code: ClassVar[str] = "INTERNAL"
    limit: str = ""
    """The name under `limits` in the settings of the limit that the request exceeded, if any."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.limit)


def _rebuild(cls: type[ServingError], message: str, limit: str) -> ServingError:
    error = cls.__new__(cls)
    ServingError.__init__(error, message)
    error.limit = limit
    return error


def dims(shape: Sequence[int]) -> str:
    """A shape as clients write it: `[1,3,300,300]`."""
    return "[" + ",".join(map(str, shape)) + "]"


# What the client did wrong: 400 -----------------------------------------------------------------


class InvalidRequest(ServingError):
    """Raised when a request does not follow its protocol or contradicts the model."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"


class MalformedBody(InvalidRequest):
    """Raised when a body is not what its headers declare."""

    def __init__(self, what: str) -> None:
        super().__init__(f"malformed request: {what}")


class InvalidParameter(InvalidRequest):
    """Raised when a URL's parameter is not a number within its range."""

    def __init__(self, name: str, value: str, least: int, most: int) -> None:
        super().__init__(
            f"parameter '{name}' is {value[:40]!r}, not a number from {least} to {most}"
        )


class UnknownInput(InvalidRequest):
    """Raised when a request names an input that the model does not have."""

    def __init__(self, model: str, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"model '{model}' has no input '{name}', its inputs are {', '.join(known) or 'none'}"
        )


class MissingInput(InvalidRequest):
    """Raised when a request leaves out an input that the model needs."""

    def __init__(self, model: str, name: str) -> None:
        super().__init__(f"request lacks input '{name}' of model '{model}'")


class DuplicateName(InvalidRequest):
    """Raised when a request names one input or output twice."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f"request names {kind} '{name}' more than once")


class UnknownOutput(InvalidRequest):
    """Raised when a request names an output that the model does not have."""

    def __init__(self, model: str, name: str, known: Sequence[str]) -> None:
        super().__init__(
            f"model '{model}' has no output '{name}', its outputs are {', '.join(known)}"
        )


class UnknownDatatype(InvalidRequest):
    """Raised when a request names a datatype that the protocol does not define."""

    def __init__(self, name: str, datatype: str) -> None:
        super().__init__(f"input '{name}' has unknown datatype '{datatype}'")


class WrongDatatype(InvalidRequest):
    """Raised when an input does not have the datatype that the model takes."""

    def __init__(self, name: str, datatype: str, expected: str) -> None:
        super().__init__(f"input '{name}' has datatype {datatype}, the model takes {expected}")


class WrongRank(InvalidRequest):
    """Raised when an input does not have the number of dimensions that the model takes."""

    def __init__(self, name: str, shape: Sequence[int], expected: Sequence[str]) -> None:
        super().__init__(
            f"input '{name}' has {len(shape)} dimensions {dims(shape)}, "
            f"the model takes {len(expected)} [{','.join(expected)}]"
        )


class WrongDimension(InvalidRequest):
    """Raised when the shape policy does not accept a dimension."""

    def __init__(self, name: str, axis: int, shape: Sequence[int], expected: Sequence[str]) -> None:
        super().__init__(
            f"input '{name}' has shape {dims(shape)}, dimension {axis} is {shape[axis]}, "
            f"the model takes [{','.join(expected)}]"
        )


class InvalidShape(InvalidRequest):
    """Raised when a shape is not a list of non-negative integers."""

    def __init__(self, name: str, shape: object) -> None:
        super().__init__(
            f"input '{name}' has shape {_brief.repr(shape)[:200]}, not a list of integers >= 0"
        )


class WrongElementCount(InvalidRequest):
    """Raised when the number of values does not match the shape."""

    def __init__(self, name: str, count: int, shape: Sequence[int], expected: int) -> None:
        super().__init__(
            f"input '{name}' has {count} values, its shape {dims(shape)} needs {expected}"
        )


class WrongByteCount(InvalidRequest):
    """Raised when the number of bytes does not match the shape and the datatype."""

    def __init__(self, name: str, count: int, shape: Sequence[int], expected: int) -> None:
        super().__init__(
            f"input '{name}' has {count} bytes, its shape {dims(shape)} needs {expected}"
        )


class ValueOutOfRange(InvalidRequest):
    """Raised when a value does not fit its datatype."""

    def __init__(self, name: str, datatype: str, detail: str) -> None:
        super().__init__(f"input '{name}' has a value that does not fit {datatype}: {detail}")


class NumberNotCarried(InvalidRequest):
    """Raised when a number of a request, or one computed from it, exceeds the device's range."""

    def __init__(self, what: str, value: float, least: float, most: float) -> None:
        super().__init__(f"{what} {value!r}, the device computes only with {least!r} to {most!r}")


class InvalidImage(InvalidRequest):
    """Raised when the server cannot decode an encoded image for an input."""

    def __init__(self, name: str, index: int, why: str) -> None:
        super().__init__(f"input '{name}', image {index}: {why}")


class ShapeNotSupported(InvalidRequest):
    """Raised when the model cannot run at a shape that the shape policy accepts."""

    def __init__(self, model: str, shapes: str, why: str) -> None:
        super().__init__(f"model '{model}' cannot run at {shapes}: {why}")


# Not found, not allowed: 404, 405, 403 ----------------------------------------------------------


class ModelNotFound(ServingError):
    """Raised when the server has no model of that name."""

    http_status = 404
    grpc_code = "NOT_FOUND"

    def __init__(self, model: str, known: Sequence[str]) -> None:
        super().__init__(f"model '{model[:100]}' is not served here, known: {', '.join(known)}")


class VersionNotFound(ServingError):
    """Raised when the model is served, but that version is not."""

    http_status = 404
    grpc_code = "NOT_FOUND"

    def __init__(self, model: str, version: str, known: Sequence[str]) -> None:
        super().__init__(
            f"model '{model}' has no version '{version[:100]}', known: {', '.join(known)}"
        )


class LabelNotFound(ServingError):
    """Raised when no version of the model has that label."""

    http_status = 404
    grpc_code = "NOT_FOUND"

    def __init__(self, model: str, label: str, known: Sequence[str]) -> None:
        super().__init__(
            f"model '{model}' has no version label '{label[:100]}', "
            f"known: {', '.join(known) or 'none'}"
        )


class PathNotFound(ServingError):
    """Raised when a URL is not part of the API."""

    http_status = 404
    grpc_code = "UNIMPLEMENTED"

    def __init__(self, path: str) -> None:
        super().__init__(f"no such path: {path[:200]}")


class MethodNotAllowed(ServingError):
    """Raised when a URL does not take the request's method."""

    http_status = 405
    grpc_code = "UNIMPLEMENTED"

    def __init__(self, method: str, path: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{path[:200]} does not take {method}, it takes {', '.join(allowed)}")


class ControlDisabled(ServingError):
    """Raised when a client asks to load or unload a model and `model_control` is false."""

    http_status = 403
    grpc_code = "PERMISSION_DENIED"

    def __init__(self) -> None:
        super().__init__(
            "the API does not load or unload models on this server: model_control is false"
        )


# Over a limit: 413 ------------------------------------------------------------------------------


class LimitExceeded(ServingError):
    """Raised when a request exceeds a limit of the server."""

    http_status = 413
    grpc_code = "RESOURCE_EXHAUSTED"

    def __init__(self, what: str, value: int, limit_name: str, limit: int) -> None:
        super().__init__(f"{what} of {value} exceeds limits.{limit_name} ({limit})")
        self.limit = limit_name


# Temporarily unavailable: 503, 504 --------------------------------------------------------------


class ModelUnavailable(ServingError):
    """Raised when the model is served but cannot answer at the moment."""

    http_status = 503
    grpc_code = "UNAVAILABLE"

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"model '{model}' is not available: {why}")


class MetricsUnavailable(ServingError):
    """Raised when none of Ray's metrics agents answers."""

    http_status = 503
    grpc_code = "UNAVAILABLE"

    def __init__(self, agents: int) -> None:
        super().__init__(f"none of Ray's {agents} metrics agents answers")


class VersionChanged(ServingError):
    """Raised when a version changed after a request was prepared for it."""

    http_status = 503
    grpc_code = "UNAVAILABLE"

    def __init__(self, model: str, version: str) -> None:
        super().__init__(
            f"version '{version}' of model '{model}' changed while the request was in flight, "
            "send it again"
        )


class QueueFull(ServingError):
    """Raised when a model's queue is full."""

    http_status = 503
    grpc_code = "RESOURCE_EXHAUSTED"
    limit = "queue_length"

    def __init__(self, model: str, waiting: int, limit: int) -> None:
        super().__init__(
            f"queue of model '{model}' is full: {waiting} requests wait, "
            f"limits.queue_length is {limit}"
        )


class DeadlineExceeded(ServingError):
    """Raised when a request times out."""

    http_status = 504
    grpc_code = "DEADLINE_EXCEEDED"
    limit = "timeout_s"

    def __init__(self, model: str, timeout_s: float) -> None:
        super().__init__(f"model '{model}' did not answer within {timeout_s:g} s")


# The server's fault: 500 ------------------------------------------------------------------------


class InferenceFailed(ServingError):
    """Raised when OpenVINO fails on a valid request."""

    def __init__(self, model: str, why: str) -> None:
        super().__init__(f"inference of model '{model}' failed: {why}")
