"""Checks that the names in cluster/README.md exist."""

import re

import pytest

from tests.cluster.files import CLUSTER, ROOT

TEXT = (CLUSTER / "README.md").read_text("utf-8")


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\bcluster/[\w/.]+\w", TEXT))))
def test_a_path_of_the_repository_exists(path: str) -> None:
    made_by_hand = {"cluster/docker/.env"}
    assert path in made_by_hand or (ROOT / path).exists()


@pytest.mark.parametrize("folder", ["docker", "grafana", "kuberay", "kuberay_redis", "vm"])
def test_every_folder_is_described(folder: str) -> None:
    assert (CLUSTER / folder).is_dir()
    assert f"`{folder}/" in TEXT


def test_links_lead_to_headings() -> None:
    headings = {line.lstrip("# ").lower() for line in TEXT.splitlines() if line.startswith("## ")}
    assert set(re.findall(r"\(#(\w+)\)", TEXT)) <= headings
