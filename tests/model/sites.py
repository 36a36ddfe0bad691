"""A model whose files, loading and clock a test controls."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from deployments.datatypes import BYTES
from deployments.inference import InputSpec, ModelInfo, ModelStatus
from deployments.model.sources.local import FoundVersion, SourceUnavailable
from deployments.model.versions.lifecycle import LoadFailed
from deployments.model.versions.versions import Versions
from deployments.settings import ModelSettings


def info(version: str, *, inputs: str = "x") -> ModelInfo:
    return ModelInfo("m", version, (version,), (InputSpec(inputs, BYTES, ()),), (), 8)


@dataclass(eq=False)
class Loaded:
    info: ModelInfo
    files: FoundVersion
    settings: ModelSettings
    bounds: list[int] = field(default_factory=list)
    closed: bool = False
    remark: str = ""

    def configure(self, settings: ModelSettings) -> None:
        self.bounds.append(settings.max_compiled_shapes)

    async def close(self) -> None:
        self.closed = True


class Site:
    """The files, the loader and the clock. `broken` versions fail to load."""

    def __init__(self, **settings: Any) -> None:
        self.found: dict[int, FoundVersion] = {}
        self.unavailable = ""
        self.broken: dict[int, str] = {}
        self.loaded: list[Loaded] = []
        self.attempts: list[int] = []
        self.now = 0.0
        self.go = asyncio.Event()
        self.go.set()
        self.versions: Versions[Loaded] = Versions(
            model(**settings), self.find, self.load, linger_s=0.0, clock=lambda: self.now
        )

    def put(self, number: int, content: str = "a") -> None:
        self.found[number] = FoundVersion(f"m/{number}/m.xml", content)

    def find(self, settings: ModelSettings) -> dict[int, FoundVersion]:
        if self.unavailable:
            raise SourceUnavailable(self.unavailable)
        return dict(self.found)

    async def load(self, number: int, files: FoundVersion, settings: ModelSettings) -> Loaded:
        self.attempts.append(number)
        await self.go.wait()
        if number in self.broken:
            raise LoadFailed(self.broken[number])
        name = "y" if settings.layout_is_other else "x"  # type: ignore[attr-defined]
        self.loaded.append(Loaded(info(str(number), inputs=name), files, settings))
        return self.loaded[-1]


class Settings(ModelSettings):
    layout_is_other: bool = False


def model(**settings: Any) -> ModelSettings:
    return Settings(**{"name": "m", "source": "m", **settings})


def states(status: ModelStatus) -> dict[str, str]:
    return {version.version: version.state for version in status.versions}


async def settled(site: Site) -> None:
    """Waits until all retired versions are unloaded."""
    await asyncio.gather(*site.versions._retiring)


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not happen")


Make = Callable[..., Site]
