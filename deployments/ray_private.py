"""Everything private of Ray that is used, and nothing else uses.

pyproject.toml binds Ray to the minor release that this was written for, and
tests/test_ray_private.py checks it against the installed package: an upgrade that moves one of
these fails there.
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
"""In the `extra` of a record of Serve's access log; Serve's handlers look for it."""

NO_DISCONNECT_TASK: Final = (b"x-request-disconnect-disabled", b"?1")
"""The header by which a request has Serve not watch for the client's disconnection."""


def handle_of(deployment: str) -> DeploymentHandle[Any]:
    """The handle of a deployment of this application, which need not be there yet."""
    return serve.get_deployment_handle(deployment, _check_exists=False)


def method_of(
    handle: DeploymentHandle[Any], name: str, *, by_reference: bool
) -> DeploymentHandle[Any]:
    """A method of the deployment, its arguments in the object store or in the message."""
    return handle.options(method_name=name, _by_reference=by_reference)


class HandleRouter:
    """The router behind a handle: what it routes by, and what it counts for autoscaling.

    None of it is there unless the router runs on this event loop, as it does with
    RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP=0: elsewhere it may not be touched from here.
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
        """Adds to the requests that wait in the handle."""
        if self._metrics is not None:
            self._metrics.num_queued_requests += requests

    def count_sent(self, replica: str, calls: int) -> None:
        """Adds to the calls in flight at a replica."""
        if self._metrics is not None:
            counts = self._metrics.num_requests_sent_to_replicas
            counts[ReplicaID(replica, self._metrics._deployment_id)] += calls


def _is_on_this_loop(router: object) -> bool:
    try:
        return getattr(router, "_asyncio_loop", None) is asyncio.get_running_loop()
    except RuntimeError:
        return False


class _OwnVersion(DeploymentConfig):
    """A deployment's configuration that keeps its version where Serve would set the common one."""

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
