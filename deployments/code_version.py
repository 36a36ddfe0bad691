"""`serve deploy` with other models redeploys what changed, and nothing else.

Serve gives all deployments of an application one code version, a hash that the application's
`args` are part of: one model more, and the replicas of all others would be replaced. Here each
deployment has a version of its own, made of what its replicas are made of.
"""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import ray
from pydantic import PrivateAttr
from ray.serve import Deployment
from ray.serve._private.config import DeploymentConfig


class _OwnVersion(DeploymentConfig):
    """A deployment's configuration that keeps its version where Serve would set the common one."""

    _own: str = PrivateAttr("")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._own if name == "version" and self._own else value)


def with_own_version(deployment: Deployment, made_of: str) -> Deployment:
    """The deployment, whose replicas are replaced if `made_of`, the code that they run or their
    environment changes, and not otherwise."""
    config = deployment._deployment_config
    own = _OwnVersion.model_construct(config.model_fields_set, **dict(config))
    own._own = _digest(_code(), _environment(), made_of)
    deployment._deployment_config = own
    return deployment


@cache
def _code() -> str:
    """The sources that replicas run, as they are now."""
    digest = hashlib.blake2s()
    for file in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(f"{file.name} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _environment() -> str:
    """The runtime environment of the application."""
    return repr(dict(ray.get_runtime_context().runtime_env)) if ray.is_initialized() else ""


def _digest(*parts: str) -> str:
    return hashlib.blake2s(repr(parts).encode(), digest_size=16).hexdigest()
