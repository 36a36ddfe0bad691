"""The name under which configurations know `deployments.observability.tracing:exporters`."""

from deployments.observability.tracing import exporters

__all__ = ["exporters"]
