"""The cluster launcher's files, read as `ray up` reads them up to where it calls the cloud."""

import copy
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import jsonschema
import pytest
from botocore.validate import ParamValidator
from click import Command
from moto import mock_aws
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

from deployments.check import load
from tests.cluster.files import CLUSTER, ROOT, document

PROFILE = "ray-autoscaler-v1"
FILES = ["vm/cluster.yaml", "vm/on_premise.yaml"]


@pytest.fixture(params=FILES)
def config(request: pytest.FixtureRequest) -> Any:
    return document(request.param)


@pytest.fixture
def on_aws() -> Any:
    return document("vm/cluster.yaml")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Amazon, as moto plays it; the key pair that Ray makes goes to a home of its own."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".ssh").mkdir()
    with mock_aws():
        # There already, as after the first `ray up`: waiting for new ones takes a quarter minute.
        iam = boto3.client("iam", "us-east-1")
        iam.create_instance_profile(InstanceProfileName=PROFILE)
        iam.create_role(RoleName=PROFILE, AssumeRolePolicyDocument="{}")
        iam.add_role_to_instance_profile(InstanceProfileName=PROFILE, RoleName=PROFILE)
        yield


def ray_starts(config: Any) -> list[list[str]]:
    """The words of every `ray start` among the commands, after its name."""
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    return [shlex.split(line.split("ray start ")[1]) for line in lines if "ray start" in line]


def test_ray_up_takes_it(config: Any) -> None:
    validate_config(prepare_config(config))


@pytest.mark.parametrize("key", ["max_worker", "head_node_typ", "setup_command"])
def test_a_mistake_is_found(on_aws: Any, key: str) -> None:
    on_aws[key] = "x"
    with pytest.raises(jsonschema.ValidationError, match=f"'{key}' was unexpected"):
        validate_config(prepare_config(on_aws))


@pytest.mark.usefixtures("aws")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_finds_network_and_rights_for_it_on_aws(on_aws: Any) -> None:
    bootstrap: Any = bootstrap_aws
    ready = bootstrap(prepare_config(on_aws))
    for node in ready["available_node_types"].values():
        assert {"SubnetIds", "SecurityGroupIds", "KeyName"} <= node["node_config"].keys()


def test_amazon_knows_every_field_of_the_machines(on_aws: Any) -> None:
    service = botocore.session.get_session().get_service_model("ec2")
    fields = service.operation_model("RunInstances").input_shape
    for node in on_aws["available_node_types"].values():
        whole = {**node["node_config"], "MinCount": 1, "MaxCount": 1}
        assert not ParamValidator().validate(whole, fields).has_errors()
        whole["Metadata"] = {}
        assert ParamValidator().validate(whole, fields).has_errors()


def test_ray_knows_every_option_of_ray_start(config: Any) -> None:
    command: Command = start
    head, worker = (command.make_context("start", args).params for args in ray_starts(config))
    assert (True, False) == (head["head"], worker["head"])
    assert 0 == head["num_cpus"]
    assert 8080 == head["metrics_export_port"] == worker["metrics_export_port"]


def test_every_node_is_behind_the_token_and_has_it(config: Any) -> None:
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("RAY_AUTH_MODE=token" in line for line in lines if "ray start" in line)
    assert "~/.ray/auth_token" == config["file_mounts"]["~/.ray/auth_token"]


def test_every_node_starts_ray_with_its_variables(config: Any) -> None:
    lines = config["head_start_ray_commands"] + config["worker_start_ray_commands"]
    assert all("set -a; . ~/anyshape/ray.env" in line for line in lines if "ray start" in line)


def test_the_code_is_sent_without_what_git_ignores(config: Any) -> None:
    assert "." == config["file_mounts"]["~/anyshape"]  # `ray up` is started in the repository
    assert [".gitignore"] == config["rsync_filter"]
    (install,) = (line for line in config["setup_commands"] if "pip install" in line)
    assert "-c ~/anyshape/constraints.txt" in install
    assert (ROOT / "constraints.txt").exists()


def test_both_files_do_the_same_on_the_machines(on_aws: Any) -> None:
    for key in ("file_mounts", "head_start_ray_commands"):
        assert on_aws[key] == document("vm/on_premise.yaml")[key]


def test_the_replicas_fit_on_the_machines(on_aws: Any) -> None:
    (application,) = load(CLUSTER / "serve_config.yaml")["applications"]
    worker = copy.deepcopy(on_aws["available_node_types"]["worker"])
    (start_line,) = ray_starts({**on_aws, "head_start_ray_commands": []})
    cpus = start.make_context("start", start_line).params["num_cpus"]
    assert worker["resources"]["CPU"] == cpus
    for replicas, nodes in (("min_replicas", "min_workers"), ("max_replicas", "max_workers")):
        wanted = sum(
            d["ray_actor_options"]["num_cpus"] * d["autoscaling_config"][replicas]
            for d in application["deployments"]
        )
        assert wanted <= worker[nodes] * cpus
