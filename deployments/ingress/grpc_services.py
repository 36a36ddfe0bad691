"""The name under which configurations know `deployments.ingress.grpc.services.add_services`."""

from deployments.ingress.grpc.services import add_services

__all__ = ["add_services"]
