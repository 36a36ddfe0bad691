"""The gRPC services, for `grpc_options.grpc_servicer_functions` in serve_config.yaml.

Messages stay bytes until the ingress reads them, so that it can check their size first, and Ray's
own proxy can pass them on without their classes.
"""

from collections.abc import Callable
from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2

from deployments.ingress.protos import kserve_v2_pb2, tensorflow_serving_pb2

SERVICES: Final = {
    service.full_name: service
    for file in (kserve_v2_pb2, tensorflow_serving_pb2, health_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
}
"""The services' descriptors by name, from the .proto files."""


def add_services(servicer: Any, server: Any) -> None:
    """Adds the methods of all services; Serve calls the ingress's method of the same name."""
    for name, service in SERVICES.items():
        handlers = {
            method.name: _kind(method)(getattr(servicer, method.name)) for method in service.methods
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))


def _kind(method: Any) -> Callable[[Any], Any]:
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler
    return grpc.unary_unary_rpc_method_handler
