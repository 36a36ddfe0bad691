"""Checks Kubernetes objects against the schemas of their readers, and refuses unknown fields."""

from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.shared import SHARED

CRD = SHARED / "reference" / "kuberay" / "ray.io_rayservices.yaml"
needs_crd = pytest.mark.skipif(not CRD.exists(), reason="needs KubeRay's CRD in ../shared")

_QUANTITY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "m": 0.001}


@cache
def ray_service_schema() -> dict[str, Any]:
    """The CRD's schema of a RayService `ray.io/v1` as JSON Schema."""
    versions = yaml.safe_load(CRD.read_text("utf-8"))["spec"]["versions"]
    (served,) = (version for version in versions if version["name"] == "v1")
    schema = strict(served["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object", "required": ["name"]}
    assert isinstance(schema, dict)
    return schema


def strict(schema: Any) -> Any:
    """Makes an OpenAPI schema refuse unknown fields, which Kubernetes only prunes."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    changed = {key: strict(value) for key, value in schema.items()}
    open_ended = schema.get("x-kubernetes-preserve-unknown-fields", False)
    if isinstance(schema.get("properties"), dict) and "type" in schema and not open_ended:
        changed.setdefault("additionalProperties", False)
    return changed


def complaints(document: Any, schema: dict[str, Any]) -> list[str]:
    """All mistakes, each with its path."""
    found = jsonschema.Draft202012Validator(schema).iter_errors(document)
    return sorted(f"{error.json_path}: {error.message}" for error in found)


def merged(document: Any, patch: Any) -> Any:
    """Applies a JSON merge patch (RFC 7386), as kustomize does to objects without a schema."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        result[key] = merged(result.get(key), value)
    return {key: value for key, value in result.items() if value is not None}


def quantity(text: str) -> float:
    """Kubernetes' `1280Mi` or `500m` as a number."""
    for suffix, factor in _QUANTITY.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
