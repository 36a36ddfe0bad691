"""The RayService: KubeRay's schema, the configuration inside it, and sizes that add up."""

import copy
import re
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml

from deployments.check import load
from deployments.settings import Limits
from tests.cluster.files import CLUSTER, ROOT, document, documents, inner_yaml
from tests.cluster.kubernetes import (
    complaints,
    merged,
    needs_crd,
    quantity,
    ray_service_schema,
)

GiB = 2**30
OTHER_FILES = ["kuberay/network.yaml", "kuberay/disruption.yaml", "kuberay_redis/redis.yaml"]


@pytest.fixture
def service() -> Any:
    return document("kuberay/rayservice.yaml")


@pytest.fixture
def head(service: Any) -> Any:
    return service["spec"]["rayClusterConfig"]["headGroupSpec"]


@pytest.fixture
def workers(service: Any) -> Any:
    (group,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    return group


def serve_config(service: Any) -> Any:
    return inner_yaml(service["spec"]["serveConfigV2"])


def container(group: Any) -> Any:
    (only,) = group["template"]["spec"]["containers"]
    return only


def pods(service: Any) -> list[Any]:
    cluster = service["spec"]["rayClusterConfig"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


# KubeRay's schema -------------------------------------------------------------------------------


@needs_crd
def test_kuberay_takes_the_service(service: Any) -> None:
    assert [] == complaints(service, ray_service_schema())


@needs_crd
def test_kuberay_takes_the_service_with_redis(service: Any) -> None:
    patch = document("kuberay_redis/fault_tolerance.yaml")
    for key in ("apiVersion", "kind"):
        assert service[key] == patch[key]
    assert service["metadata"]["name"] == patch["metadata"]["name"]
    whole = merged(service, patch)
    assert [] == complaints(whole, ray_service_schema())
    options = whole["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    assert "anyshape-redis:6379" == options["redisAddress"]
    assert service["spec"]["serveConfigV2"] == whole["spec"]["serveConfigV2"]


@needs_crd
@pytest.mark.parametrize(
    ("place", "key", "value", "complaint"),
    [
        ((), "rayClusterConfg", {}, "'rayClusterConfg' was unexpected"),
        (("rayClusterConfig",), "enableInTreeAutoscaling", "yes", "is not of type 'boolean'"),
        (("rayClusterConfig", "authOptions"), "mode", "tokens", "is not one of"),
        (("rayClusterConfig", "workerGroupSpecs", 0), "maxReplica", 8, "was unexpected"),
        (
            ("rayClusterConfig", "workerGroupSpecs", 0, "template", "spec", "containers", 0),
            "readynessProbe",
            {},
            "was unexpected",
        ),
        (
            ("rayClusterConfig", "headGroupSpec", "template", "spec", "volumes", 0, "emptyDir"),
            "sizeLimits",
            "1Gi",
            "was unexpected",
        ),
    ],
)
def test_a_mistake_is_found(
    service: Any, place: tuple[Any, ...], key: str, value: object, complaint: str
) -> None:
    spec = copy.deepcopy(service["spec"])
    part = spec
    for step in place:
        part = part[step]
    part[key] = value
    (found,) = complaints({**service, "spec": spec}, ray_service_schema())
    assert complaint in found


@pytest.mark.parametrize("path", OTHER_FILES)
def test_kubernetes_takes_the_other_objects(path: str) -> None:
    for one in documents(path):
        kubernetes_validate.validate(one, "1.33", strict=True)


@pytest.mark.parametrize("folder", ["kuberay", "kuberay_redis"])
def test_kustomize_finds_every_file_and_leaves_none_out(folder: str) -> None:
    kustomization = document(f"{folder}/kustomization.yaml")
    named = kustomization["resources"] + [p["path"] for p in kustomization.get("patches", [])]
    here = {file.name for file in (CLUSTER / folder).iterdir()} - {"kustomization.yaml"}
    assert here == {name for name in named if not name.startswith("..")}
    assert all((CLUSTER / folder / name).exists() for name in named)


# The configuration inside -----------------------------------------------------------------------


def test_it_is_the_one_for_several_nodes(service: Any) -> None:
    assert load(CLUSTER / "serve_config.yaml") == serve_config(service)


# Sizes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("replicas", "nodes"), [("min", "minReplicas"), ("max", "maxReplicas")])
def test_the_replicas_fit_on_the_workers(
    service: Any, workers: Any, replicas: str, nodes: str
) -> None:
    (application,) = serve_config(service)["applications"]
    wanted = sum(
        d["ray_actor_options"]["num_cpus"] * d["autoscaling_config"][f"{replicas}_replicas"]
        for d in application["deployments"]
    )
    assert wanted <= workers[nodes] * quantity(container(workers)["resources"]["limits"]["cpu"])


def test_a_workers_memory_holds_the_object_store_and_all_shared_memory(
    service: Any, workers: Any
) -> None:
    resources = container(workers)["resources"]["limits"]
    (application,) = serve_config(service)["applications"]
    limits = Limits(**application["args"].get("limits", {}))
    smallest = min(d["ray_actor_options"]["num_cpus"] for d in application["deployments"])
    replicas = quantity(resources["cpu"]) // smallest
    shm = quantity(shm_volume(workers)["emptyDir"]["sizeLimit"])
    # A GiB for each replica's models and requests, and one for Ray's own processes.
    needed = shm + replicas * (limits.shared_memory_bytes + GiB) + GiB
    assert needed <= quantity(resources["memory"])


def shm_volume(group: Any) -> Any:
    mounts = {m["mountPath"]: m["name"] for m in container(group)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in group["template"]["spec"]["volumes"]}
    assert set(mounts.values()) == set(volumes)
    return volumes[mounts["/dev/shm"]]


def test_the_object_store_fits_into_dev_shm_with_room_to_spare(service: Any) -> None:
    for group in pods(service):
        volume = shm_volume(group)
        assert "Memory" == volume["emptyDir"]["medium"]
        store = int(group["rayStartParams"]["object-store-memory"])
        assert store * 1.1 <= quantity(volume["emptyDir"]["sizeLimit"])


def test_requests_are_limits_so_that_no_pod_is_evicted_for_its_memory(service: Any) -> None:
    for group in pods(service):
        resources = container(group)["resources"]
        assert resources["requests"] == resources["limits"]


# Who works, who answers, who may connect --------------------------------------------------------


def test_the_head_takes_no_replicas(head: Any) -> None:
    assert "0" == head["rayStartParams"]["num-cpus"]


def test_workers_come_and_go(service: Any, workers: Any) -> None:
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["enableInTreeAutoscaling"] is True
    assert 0 < cluster["autoscalerOptions"]["idleTimeoutSeconds"]
    assert 2 <= workers["minReplicas"] == workers["replicas"] < workers["maxReplicas"]


def test_a_change_of_the_cluster_starts_a_second_one(service: Any) -> None:
    assert "NewCluster" == service["spec"]["upgradeStrategy"]["type"]


def test_the_dashboard_is_behind_a_token_and_in_nobodys_reach(service: Any, head: Any) -> None:
    assert "token" == service["spec"]["rayClusterConfig"]["authOptions"]["mode"]
    assert ("ClusterIP", False) == (head["serviceType"], head["enableIngress"])
    (rule,) = (
        rule
        for policy in documents("kuberay/network.yaml")
        for rule in policy["spec"]["ingress"]
        if 8265 in [port["port"] for port in rule.get("ports", [])]
    )
    (peer,) = rule["from"]
    assert {"app.kubernetes.io/name": "kuberay-operator"} == peer["podSelector"]["matchLabels"]


def test_clients_reach_the_workers_and_nothing_else_of_them() -> None:
    policies = {p["metadata"]["name"]: p["spec"] for p in documents("kuberay/network.yaml")}
    clients = policies["anyshape-clients"]
    assert "worker" == clients["podSelector"]["matchLabels"]["app.kubernetes.io/component"]
    (rule,) = clients["ingress"]
    assert {8000, 9000} == {port["port"] for port in rule["ports"]}
    assert all("from" in rule for rule in policies["anyshape"]["ingress"])


def test_policies_select_the_pods(service: Any, workers: Any) -> None:
    selected = [
        p["spec"].get("podSelector") or p["spec"]["selector"]
        for path in OTHER_FILES[:2]
        for p in documents(path)
    ]
    labels = workers["template"]["metadata"]["labels"]
    for selector in selected:
        assert selector["matchLabels"].items() <= labels.items()
    (spread,) = workers["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_ports_and_probes_are_those_that_are_served(service: Any) -> None:
    config = serve_config(service)
    for group in pods(service):
        ports = {port["name"]: port["containerPort"] for port in container(group)["ports"]}
        assert config["http_options"]["port"] == ports["serve"]
        # KubeRay takes ports whose names begin with "serve-" into its Service as well.
        assert config["grpc_options"]["port"] == ports["serve-grpc"]
        start = group["rayStartParams"]
        assert str(ports["metrics"]) == start["metrics-export-port"]
        for probe in ("startupProbe", "livenessProbe"):
            asked = container(group)[probe]["httpGet"]
            assert start["dashboard-agent-listen-port"] == str(asked["port"])


def test_a_worker_is_ready_when_its_proxy_is(workers: Any, service: Any) -> None:
    probe = container(workers)["readinessProbe"]["httpGet"]
    assert ("/-/healthz", serve_config(service)["http_options"]["port"]) == (
        probe["path"],
        probe["port"],
    )


def test_nothing_runs_as_root(service: Any) -> None:
    for group in pods(service):
        assert group["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
        security = container(group)["securityContext"]
        assert security["allowPrivilegeEscalation"] is False
        assert ["ALL"] == security["capabilities"]["drop"]


def test_ray_and_the_image_are_of_one_version(service: Any) -> None:
    assert ray.__version__ == str(service["spec"]["rayClusterConfig"]["rayVersion"])
    (image,) = {container(group)["image"] for group in pods(service)}
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert version is not None
    assert image.endswith(f"/anyshape:{version[1]}")


def test_the_models_lie_where_the_image_looks_for_them(workers: Any) -> None:
    mounts = [mount["mountPath"] for mount in container(workers)["volumeMounts"]]
    assert "ENV ANYSHAPE_MODELS=/models" in (CLUSTER / "docker" / "Dockerfile").read_text()
    assert "/models" in mounts


def test_redis_is_asked_for_the_password_that_ray_is_given() -> None:
    patch = document("kuberay_redis/fault_tolerance.yaml")
    options = patch["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    text = yaml.safe_dump(documents("kuberay_redis/redis.yaml")[0])
    (asked,) = re.findall(r"secretKeyRef:\s+key: (\S+)\s+name: (\S+)", text)
    secret = options["redisPassword"]["valueFrom"]["secretKeyRef"]
    assert (secret["key"], secret["name"]) == asked
