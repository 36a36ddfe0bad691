"""All uses of Ray's private names; no other module uses any.

pyproject.toml pins Ray to the minor release that this was written for. tests/test_ray_private.py
checks it against the installed package, and fails if an upgrade moves one of the names.
"""

import asyncio
from typing import Any, Final, TypeVar

from pydantic import PrivateAttr
from ray import serve
from ray.serve import Deployment
from ray.serve._private.common import ReplicaID
from ray.serve._private.config import DeploymentConfig
from ray.serve._private.logging_utils import log_access_log_filter
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve.handle import DeploymentHandle

__all__ = [
    "ACCESS_LOG_MARK",
    "NO_DISCONNECT_TASK",
    "HandleRouter",
    "ReplicaID",
    "RunningReplica",
    "handle_of",
    "log_access_log_filter",
    "method_of",
    "with_version",
]

T = TypeVar("T")

ACCESS_LOG_MARK: Final = "serve_access_log"
"""A key in the `extra` of records of Serve's access log, which Serve's handlers look for."""

NO_DISCONNECT_TASK: Final = (b"x-request-disconnect-disabled", b"?1")
"""A request header: Serve does not watch for the client's disconnection."""


def handle_of(deployment: str) -> DeploymentHandle[Any]:
    """The handle of a deployment of this application, which may not exist yet."""
    return serve.get_deployment_handle(deployment, _check_exists=False)


def method_of(
    handle: DeploymentHandle[Any], name: str, *, by_reference: bool
) -> DeploymentHandle[Any]:
    """The handle of a method. Its arguments travel in the object store, or in the message."""
    return handle.options(method_name=name, _by_reference=by_reference)


class HandleRouter:
    """The router behind a handle: its attributes, and its counts for autoscaling.

    All of it does nothing unless the router runs on this event loop, as it does with
    RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0. This loop must not touch a router on another one.
    """

    def __init__(self, handle: DeploymentHandle[Any]) -> None:
        router = getattr(handle, "_router", None)
        here = _is_on_this_loop(router)
        self._router = getattr(router, "_asyncio_router", None) if here else None
        self._metrics = getattr(self._router, "_metrics_manager", None)

    def attribute(self, name: str, kind: type[T]) -> T | None:
        """An attribute of the request router; None if the router is of another class.

        Serve pickles the router's class by value, so the class here is another one.
        """
        value = getattr(getattr(self._router, "_request_router", None), name, None)
        return value if isinstance(value, kind) else None

    def count_queued(self, requests: int) -> None:
        """Adds to Serve's count of requests that wait in the handle."""
        if self._metrics is not None:
            self._metrics.num_queued_requests += requests

    def count_sent(self, replica: str, calls: int) -> None:
        """Adds to Serve's count of calls in flight at a replica."""
        if self._metrics is not None:
            counts = self._metrics.num_requests_sent_to_replicas
            counts[ReplicaID(replica, self._metrics._deployment_id)] += calls


def _is_on_this_loop(router: object) -> bool:
    try:
        return getattr(router, "_asyncio_loop", None) is asyncio.get_running_loop()
    except RuntimeError:
        return False


class _OwnVersion(DeploymentConfig):
    """A deployment's configuration that keeps its own version when Serve sets the common one."""

    _own: str = PrivateAttr("")

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, self._own if name == "version" and self._own else value)


def with_version(deployment: Deployment, version: str) -> Deployment:
    """The deployment with a code version of its own instead of the application's."""
    config = deployment._deployment_config
    own = _OwnVersion.model_construct(config.model_fields_set, **dict(config))
    own._own = version
    deployment._deployment_config = own
    return deployment
