"""One server with all the small models, each computing in f32: to start one takes half a minute."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.conftest import F32, config, save
from tests.e2e.server import Server, running
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


@pytest.fixture(scope="package")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    names = [*SAVED, *formats.FILES]
    assert len(names) == len(set(names))
    entries = [
        {
            "name": name,
            "source": formats.SOURCES.get(name, name),
            "plugin_config": F32,
            **SETTINGS.get(name, {}),
        }
        for name in names
    ]
    variables = {"ANYSHAPE_MODELS": str(repository)}
    with running(config(entries), tmp_path_factory.mktemp("server"), variables) as server:
        states = httpx.get(f"{server.url}/v2/models").json()["models"]
        assert dict.fromkeys(names, "AVAILABLE") == {
            model["name"]: model.get("reason") or model["state"] for model in states
        }
        yield server
