"""Loads versions from real files with real OpenVINO, without Ray."""

import asyncio
import time
from pathlib import Path
from typing import Any

import numpy as np

from deployments.model.execution.requests import BatchMember
from deployments.model.versions.idle import IdleVersion
from deployments.model.versions.loader import Loader, LocalDirectories
from deployments.model.versions.serving import VersionServer
from deployments.settings import ModelSettings
from tests.model.loading import tensor


def settings(**changes: Any) -> ModelSettings:
    return ModelSettings(**{"name": "m", "source": "m", **changes})


def loader(root: Path, *, cache: bool = False, reserved_cpus: float = 0) -> Loader:
    places = LocalDirectories(root / "models", root / "cache" if cache else None, 10**9)
    return Loader(places, asyncio.Lock(), lambda line: None, reserved_cpus)


async def loaded(
    root: Path, number: int = 1, *, cache: bool = False, reserved_cpus: float = 0, **changes: Any
) -> VersionServer | IdleVersion:
    from_files = loader(root, cache=cache, reserved_cpus=reserved_cpus)
    wanted = settings(**changes)
    return await from_files.load(number, from_files.find(wanted)[number], wanted)


async def ask(serving: VersionServer | IdleVersion, *shape: int) -> float:
    """Runs an inference; returns the number that the version adds."""
    tensors = serving.info.arrange([tensor(np.zeros(shape), name="data")])
    key, rows = serving.info.key_and_rows(tensors, 100)
    work = BatchMember(tensors, rows, (), time.monotonic() + 10, 10.0)
    (answer,) = await serving.run(key, [work])
    assert isinstance(answer, list), answer
    return round(float(np.asarray(answer[0].data).flat[0]), 3)
