"""`python -m deployments.check serve_config.yaml`, which finds mistakes before Ray reads the file.

May import the settings and the vocabulary. The serving code may not import it.
"""

from deployments.check.files import UnreadableConfig, load
from deployments.check.haproxy import haproxy_available, without_haproxy
from deployments.check.problems import model_names, problems

__all__ = [
    "UnreadableConfig",
    "haproxy_available",
    "load",
    "model_names",
    "problems",
    "without_haproxy",
]
