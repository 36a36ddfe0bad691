"""Gives each deployment its own code version, so that `serve deploy` replaces only what changed.

Serve gives all deployments of an application one code version, a hash that includes the
application's `args`. So one more model would replace the replicas of all others. Here the version
of a deployment is a hash of all that its replicas depend on.
"""

import hashlib
from functools import cache
from pathlib import Path

import ray
from ray.serve import Deployment

from deployments.ray_private import with_version


def with_own_version(deployment: Deployment, made_of: str) -> Deployment:
    """The deployment with a code version of its own.

    Serve replaces its replicas only if `made_of`, their code or their environment changes.
    """
    return with_version(deployment, _digest(_code(), _environment(), made_of))


@cache
def _code() -> str:
    """A hash of the source files that replicas run."""
    digest = hashlib.blake2s()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root)} {file.stat().st_size} ".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _environment() -> str:
    """The runtime environment of the application."""
    return repr(dict(ray.get_runtime_context().runtime_env)) if ray.is_initialized() else ""


def _digest(*parts: str) -> str:
    return hashlib.blake2s(repr(parts).encode(), digest_size=16).hexdigest()
