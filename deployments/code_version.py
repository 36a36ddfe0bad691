"""`serve deploy` with other models redeploys what changed, and nothing else.

Serve gives all deployments of an application one code version, a hash that the application's
`args` are part of: one model more, and the replicas of all others would be replaced. Here each
deployment has a version of its own, made of what its replicas are made of.
"""

import hashlib
from functools import cache
from pathlib import Path

import ray
from ray.serve import Deployment

from deployments.ray_private import with_version


def with_own_version(deployment: Deployment, made_of: str) -> Deployment:
    """The deployment, whose replicas are replaced if `made_of`, the code that they run or their
    environment changes, and not otherwise."""
    return with_version(deployment, _digest(_code(), _environment(), made_of))


@cache
def _code() -> str:
    """The sources that replicas run, as they are now."""
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
