"""One server with all small models, computing in f32."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import F32, config, save
from tests.e2e.host import Host
from tests.e2e.server import Server
from tests.e2e.small import formats, kinds, preprocessed, rows
from tests.e2e.small.rules import RULES

SAVED = {
    **kinds.MODELS,
    **preprocessed.MODELS,
    **rows.MODELS,
    **{name: rule.model for name, rule in RULES.items()},
}
SETTINGS: dict[str, dict[str, Any]] = {
    **kinds.SETTINGS,
    **preprocessed.SETTINGS,
    **rows.SETTINGS,
    **{name: rule.settings for name, rule in RULES.items()},
}


@pytest.fixture(scope="package")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    for name, model in SAVED.items():
        save(model, directory, name)
    formats.write_all(directory)
    return directory


def grouped(names: Iterable[str]) -> list[list[str]]:
    """Groups of models with equal settings, which can be versions of one model."""
    groups: dict[str, list[str]] = {}
    for name in names:
        source = formats.SOURCES.get(name, "")  # a file or directory without versions
        groups.setdefault(source + json.dumps(SETTINGS.get(name)), []).append(name)
    return list(groups.values())


@pytest.fixture(scope="package")
def server(shared_host: Host, repository: Path) -> Server:
    """A server where models share replicas if possible: starting one takes 3 s of a processor."""
    names = [*SAVED, *formats.FILES]
    assert len(names) == len(set(names))
    entries, versions, expected = [], {}, set()
    for members in grouped(names):
        model = members[0]
        source = formats.SOURCES.get(model, model)
        if len(members) > 1:
            model = source = f"{model}-and-others"
            (repository / source).mkdir()
            for number, name in enumerate(members, 1):
                (repository / source / str(number)).symlink_to(repository / name / "1")
                versions[name] = (model, str(number))
        settings = SETTINGS.get(members[0], {})
        entry = {"name": model, "source": source, "model_version_policy": "all"}
        entries.append({**entry, "plugin_config": F32, **settings})
        expected |= {(model, str(number), "READY") for number in range(1, 1 + len(members))}
    server = shared_host.serve(config(entries), repository)
    index = httpx.post(f"{server.url}/v2/repository/index", timeout=30).json()
    assert expected == {(m["name"], m["version"], m["reason"] or m["state"]) for m in index}
    return replace(server, versions=versions)
