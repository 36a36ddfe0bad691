"""The application that `serve run serve_config.yaml` builds: one Ingress over the models.

No `from __future__ import annotations` here: Serve reads the builder's annotation at run time,
and as a string it would pass unvalidated settings.
"""

from ray import serve
from ray.serve import Application

from deployments.ingress.deployment import Ingress
from deployments.model.deployment import OpenVINOModel
from deployments.settings import INGRESS_NAME, Settings

_MAX_ONGOING_REQUESTS = 16_384
"""Not a limit anybody should meet: limits.queue_length comes first, with a better message."""


_RESERVED_CPUS = 0
"""Replicas reserve no CPUs unless `deployments:` in serve_config.yaml says so: else a machine
with fewer cores than models could not start them all. OpenVINO uses the cores either way."""


def build(settings: Settings) -> Application:
    """The application for the `args` of serve_config.yaml."""
    repository = settings.repository_path()
    deployment = serve.deployment(
        max_ongoing_requests=_MAX_ONGOING_REQUESTS,
        ray_actor_options={"num_cpus": _RESERVED_CPUS},
    )
    models = {
        model.name: deployment(OpenVINOModel)
        .options(name=model.name)
        .bind(model, settings.limits, repository)
        for model in settings.models
    }
    ingress = deployment(serve.ingress()(Ingress)).options(name=INGRESS_NAME)
    return ingress.bind(models, settings.limits)
