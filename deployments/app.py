"""The application that `serve run serve_config.yaml` builds: an Ingress and the models."""

from typing import Any

from ray import serve
from ray.serve import Application
from ray.serve.config import RequestRouterConfig

from deployments import timing
from deployments.code_version import with_own_version
from deployments.ingress.deployment import Ingress
from deployments.ingress.routing.router import ShapeRouter
from deployments.model.deployment import OpenVINOModel
from deployments.model.versions.loader import LocalDirectories
from deployments.settings import INGRESS_NAME, settings_from

_MAX_ONGOING_REQUESTS = 16_384
"""Larger than any load: requests exceed limits.queue_length first, which has a better message."""


_RESERVED_CPUS = 0
"""Replicas reserve no CPUs unless `deployments:` in serve_config.yaml sets some: else a machine
with fewer cores than models could not start all replicas. Without a reservation OpenVINO uses all
cores, with one as many threads as are reserved."""


_BY_SHAPE = RequestRouterConfig.model_validate(
    {
        "request_router_class": ShapeRouter,
        # How often replicas report their compiled shapes. Routers know the shapes they sent.
        "request_routing_stats_period_s": 5.0,
    }
)


def build(args: dict[str, Any]) -> Application:
    """The application for the `args` of serve_config.yaml. Raises SettingsError.

    Takes the plain mapping: a pydantic annotation would make Serve validate it too, with a text
    that is hard to read, and not at all if this module's annotations were strings.
    """
    settings = settings_from(args)
    limits = settings.limits.model_dump_json()
    places = LocalDirectories(
        settings.repository_path(), settings.cache_path(), settings.cache_bytes
    )
    models = {
        model.name: with_own_version(
            # Only with a user_config, even an empty one, Serve calls `reconfigure`, which loads.
            _deployment(OpenVINOModel).options(
                name=model.name, user_config={}, request_router_config=_BY_SHAPE
            ),
            f"{model.model_dump_json()} {limits} {places}",
        ).bind(model, settings.limits, places)
        for model in settings.models
    }
    ingress = with_own_version(
        # The models' names are in user_config, so that a change of them does not replace replicas.
        _deployment(serve.ingress()(Ingress)).options(
            name=INGRESS_NAME,
            user_config={"models": list(models)},
            # Half of the models' timeout. While an ingress replica hangs, replicas on other nodes
            # that it has called wait, with all their work, until Ray has taken their answers.
            health_check_timeout_s=timing.HEALTH_CHECK_PERIOD_S,
        ),
        f"{limits} {settings.model_control}",
    )
    return ingress.bind(models, settings.limits, settings.model_control)


_deployment = serve.deployment(
    max_ongoing_requests=_MAX_ONGOING_REQUESTS,
    ray_actor_options={"num_cpus": _RESERVED_CPUS},
    max_surge_percent=100,  # an old replica serves until the new one is ready
    # Serve replaces a replica that hangs after three quarters of a minute (by default, after two
    # minutes). A replica never blocks its event loop for long, not even with compilations.
    health_check_period_s=timing.HEALTH_CHECK_PERIOD_S,
    health_check_timeout_s=2 * timing.HEALTH_CHECK_PERIOD_S,
)
