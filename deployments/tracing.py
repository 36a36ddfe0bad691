"""Exports `deployments.observability.tracing:exporters` under the name that configurations use."""

from deployments.observability.tracing import exporters

__all__ = ["exporters"]
