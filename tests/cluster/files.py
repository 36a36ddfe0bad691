"""Reads the files under `cluster/` as YAML, without duplicate keys."""

import io
from pathlib import Path
from typing import Any

import yaml

from deployments.check import load

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"


def document(path: str) -> Any:
    """The only document of a file."""
    return load(CLUSTER / path)


def documents(path: str) -> list[Any]:
    """All documents of a file that may have several."""
    return list(yaml.safe_load_all((CLUSTER / path).read_text("utf-8")))


def tracked_yaml() -> list[Path]:
    """Every YAML file under cluster/."""
    return sorted([*CLUSTER.rglob("*.yaml"), *CLUSTER.rglob("*.yml")])


def inner_yaml(text: str) -> Any:
    """The document in a string of another document."""
    return yaml.safe_load(io.StringIO(text))
