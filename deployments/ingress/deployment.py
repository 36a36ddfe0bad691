"""The Ingress deployment: every protocol in front, the models' deployments behind."""

from collections.abc import Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from deployments.arena import Arena
from deployments.ingress.application import Application
from deployments.ingress.grpc_methods import GrpcMethods
from deployments.ingress.http import Http
from deployments.ingress.lanes import MeetingPoint
from deployments.ingress.models import ServedModel
from deployments.ingress.replicas import RayReplicas
from deployments.ingress.served import ServedModels
from deployments.settings import Limits


class Ingress(GrpcMethods):
    """Speaks the protocols, validates, and batches requests of matching shapes.

    Serve sends HTTP requests to the application and gRPC calls to the method of that name.
    """

    def __init__(self, models: Mapping[str, DeploymentHandle[Any]], limits: Limits) -> None:
        arena = Arena(limits.shared_memory_bytes) if Arena.supported() else None
        self._meeting = MeetingPoint() if arena is not None else None
        self._replicas = {
            name: RayReplicas(handle, self._meeting) for name, handle in models.items()
        }
        served = {
            name: ServedModel(name, replicas, limits, arena)
            for name, replicas in self._replicas.items()
        }
        super().__init__(ServedModels(served, limits, arena))
        self._http = Http(self.models, arena)

    def __serve_build_asgi_app__(self) -> Application:
        """Serve calls this after the constructor, on the replica's event loop."""
        return self._http.application()

    async def __del__(self) -> None:  # Serve awaits it when the replica has drained
        await self.models.close()
        for replicas in self._replicas.values():
            replicas.close()
        if self._meeting is not None:
            await self._meeting.close()
