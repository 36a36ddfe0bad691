"""What TensorFlow Serving's REST API and its gRPC services have in common."""

from dataclasses import dataclass
from typing import Final

from deployments.errors import MalformedBody, ModelUnavailable, VersionNotFound
from deployments.inference import ModelStatus
from deployments.ingress.served import ServedModels

SIGNATURE: Final = "serving_default"
METHOD: Final = "tensorflow/serving/predict"
MAP_TYPE: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"

DATATYPES: Final = {
    "FP32": "DT_FLOAT",
    "FP64": "DT_DOUBLE",
    "INT32": "DT_INT32",
    "UINT8": "DT_UINT8",
    "INT16": "DT_INT16",
    "INT8": "DT_INT8",
    "BYTES": "DT_STRING",
    "INT64": "DT_INT64",
    "BOOL": "DT_BOOL",
    "BF16": "DT_BFLOAT16",
    "UINT16": "DT_UINT16",
    "FP16": "DT_HALF",
    "UINT32": "DT_UINT32",
    "UINT64": "DT_UINT64",
}
"""TensorFlow's names of the datatypes (tensorflow/core/framework/types.proto)."""


@dataclass(frozen=True, slots=True)
class VersionStatus:
    """One version; its number is 0 for as long as the model has not been read."""

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


def check_signature(name: object) -> None:
    """Every model has the one signature that TensorFlow Serving calls by default."""
    if name is not None and not isinstance(name, str):
        raise MalformedBody("signature_name is not a string")
    if name not in (None, "", SIGNATURE):
        raise MalformedBody(f"signature_name is {name[:100]!r}, models have '{SIGNATURE}'")


async def asked_statuses(
    models: ServedModels, name: str, version: str | None, label: str | None
) -> list[VersionStatus]:
    """Raises ModelNotFound, VersionNotFound, LabelNotFound, ModelUnavailable."""
    if label is not None:
        _, info = await models.addressed(name, label=label)
        version = info.version
    return version_statuses(name, await models.named(name).status(), version)


def version_statuses(
    model: str, status: ModelStatus, version: str | None = None
) -> list[VersionStatus]:
    """The statuses of all versions, or of one. Raises VersionNotFound."""
    if status.info is None:
        if status.state == "LOADING":
            return [VersionStatus(0, "LOADING")]
        return [VersionStatus(0, "END", ModelUnavailable.grpc_code, status.reason)]
    versions = status.info.versions
    if version is not None and version not in versions:
        raise VersionNotFound(model, version, versions)
    return [VersionStatus(int(n), "AVAILABLE") for n in versions if version in (None, n)]
