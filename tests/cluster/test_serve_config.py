"""The configuration for several nodes is the project's own, but for its deployments."""

from typing import Any

import pytest

from deployments.check import load, problems
from tests.cluster.files import CLUSTER, ROOT


@pytest.fixture
def config() -> Any:
    return load(CLUSTER / "serve_config.yaml")


def test_it_has_no_mistakes(config: Any) -> None:
    assert [] == [str(problem) for problem in problems(config)]


def test_it_is_the_projects_own_but_for_what_several_nodes_need(config: Any) -> None:
    ours = load(ROOT / "serve_config.yaml")
    for one, stays_s in ((ours, "2"), (config, "10")):
        one["applications"][0].pop("deployments", None)
        for part in (one["controller_options"], *one["applications"]):
            variables = dict(part["runtime_env"]["env_vars"])
            assert stays_s == variables.pop("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S")
            part["runtime_env"] = {"env_vars": variables}
    assert ours == config


def test_every_deployment_scales_by_itself_from_two_replicas_on(config: Any) -> None:
    (application,) = config["applications"]
    names = ["Ingress", *(model["name"] for model in application["args"]["models"])]
    deployments = application["deployments"]
    assert names == [deployment["name"] for deployment in deployments]
    for deployment in deployments:
        scaling = deployment["autoscaling_config"]
        assert 2 <= scaling["min_replicas"] < scaling["max_replicas"]
        # Without a core of its own a replica might come to lie on the head.
        assert 1 <= deployment["ray_actor_options"]["num_cpus"]
