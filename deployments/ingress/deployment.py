"""The Ingress deployment, which serves all protocols and calls the models' deployments."""

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from ray.serve.handle import DeploymentHandle

from deployments.ingress.dataplane.served_model import ServedModel
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.grpc.methods import GrpcMethods
from deployments.ingress.http.access_log import skip_dropped_records
from deployments.ingress.http.application import Application
from deployments.ingress.http.metrics_endpoint import MetricsEndpoint
from deployments.ingress.http.routes import HttpRoutes
from deployments.ingress.routing.connections import ConnectionListener
from deployments.ingress.routing.ray_replicas import RayReplicas
from deployments.observability.logs import logger
from deployments.observability.metrics import RayTelemetry
from deployments.ray_private import handle_of
from deployments.settings import INGRESS_NAME, Limits
from deployments.transport.arena import Arena


class Ingress(GrpcMethods):
    """Serves all protocols: validates requests, and batches those of matching shapes.

    Serve passes HTTP requests to the application, and gRPC calls to the method of the same name.
    """

    def __init__(
        self,
        models: Mapping[str, DeploymentHandle[Any]],
        limits: Limits,
        model_control: bool,
    ) -> None:
        skip_dropped_records(logger)
        self._arena = Arena(limits.shared_memory_bytes) if Arena.supported() else None
        self._listener = ConnectionListener() if self._arena is not None else None
        self._replicas: dict[str, RayReplicas] = {}
        self._telemetry = RayTelemetry()
        self._telemetry.watch_memory(self._arena)
        super().__init__(
            ServedModels({}, limits, self._arena, control=model_control, telemetry=self._telemetry)
        )
        self._set_models(models)
        self._http = HttpRoutes(self.models, self._arena, MetricsEndpoint(_agents).text)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        """Serves the models that `user_config` names, which `build` sets; Serve calls it."""
        self._telemetry.start()
        names = user_config.get("models")
        if not isinstance(names, list):
            raise ValueError(f"{INGRESS_NAME} takes no user_config, set its models in args")
        handles = {name: handle_of(name) for name in names}
        gone = self._set_models(handles)
        await asyncio.gather(*(model.close() for model, _ in gone))
        for _, replicas in gone:
            replicas.close()

    def _set_models(
        self, handles: Mapping[str, DeploymentHandle[Any]]
    ) -> list[tuple[ServedModel, RayReplicas]]:
        """Sets the served models, and returns the removed ones. The others keep their handles."""
        old = {name: r for name, r in self._replicas.items() if name not in handles}
        self._replicas = {n: r for n, r in self._replicas.items() if n not in old}
        new = {
            name: RayReplicas(handle, self._listener)
            for name, handle in handles.items()
            if name not in self._replicas
        }
        self._replicas |= new
        limits = self.models.limits
        served = {
            name: ServedModel(name, replicas, limits, self._arena, self._telemetry)
            for name, replicas in new.items()
        }
        gone = self.models.change(list(handles), served)
        return [(model, old[model.name]) for model in gone]

    def __serve_build_asgi_app__(self) -> Application:
        """Serve calls this after the constructor, on the replica's event loop."""
        return self._http.application()

    async def __del__(self) -> None:  # Serve awaits it when the replica has drained
        await self.models.close()
        for replicas in self._replicas.values():
            replicas.close()
        if self._listener is not None:
            await self._listener.close()
        await self._telemetry.close()


def _agents() -> list[str]:
    """The URLs at which Ray exports the metrics of each node."""
    api: Any = ray  # `nodes` has no types
    return [
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
        for node in api.nodes()
        if node["Alive"] and node["MetricsExportPort"] > 0
    ]
