"""The common part of TensorFlow Serving's REST API and its gRPC services."""

from dataclasses import dataclass
from typing import Final

from deployments.errors import MalformedBody, ModelUnavailable, VersionNotFound
from deployments.inference import ModelState, ModelStatus

SIGNATURE: Final = "serving_default"
METHOD: Final = "tensorflow/serving/predict"
MAP_TYPE: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """The status of one version; its number is 0 until the model has been read."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


def check_signature(name: object) -> None:
    """Raises MalformedBody unless the name is that of the default signature, the only one."""
    if name is not None and not isinstance(name, str):
        raise MalformedBody("signature_name is not a string")
    if name not in (None, "", SIGNATURE):
        raise MalformedBody(f"signature_name is {name[:100]!r}, models have only '{SIGNATURE}'")


def version_statuses(
    model: str, status: ModelStatus, version: str | None = None
) -> list[VersionStatus]:
    """The statuses of all versions, or of one. Raises VersionNotFound."""
    if not status.versions:
        return [_version_status(0, status.state, status.reason)]
    known = [v.version for v in status.versions]
    if version is not None and version not in known:
        raise VersionNotFound(model, version, known)
    return [
        _version_status(int(v.version), v.state, v.reason)
        for v in status.versions
        if version in (None, v.version)
    ]


def _version_status(version: int, state: ModelState, reason: str) -> VersionStatus:
    if state == "UNAVAILABLE":
        return VersionStatus(version, "END", ModelUnavailable.grpc_code, reason)
    return VersionStatus(version, state, error_message=reason)
