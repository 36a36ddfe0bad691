"""Loads a version of a model: finds its files, reads, compiles and warms up."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from deployments.dimensions import accepts, spell
from deployments.errors import dims
from deployments.model.execution.executor import SharedExecutions, shielded
from deployments.model.openvino.compile_cache import CompileCache
from deployments.model.openvino.runtime import BUILT_IN, CannotLoad, CannotReshape
from deployments.model.policy.shapes import PolicyError
from deployments.model.sources.download import fetch
from deployments.model.sources.local import FoundVersion, SourceUnavailable, find, version_at
from deployments.model.sources.mirror import Mirror
from deployments.model.sources.origin import Origin
from deployments.model.versions.hot_shapes import HotShapes
from deployments.model.versions.idle import IdleVersion
from deployments.model.versions.lifecycle import LoadFailed
from deployments.model.versions.loaded import LoadedModel, LoadSettings
from deployments.model.versions.serving import CacheSettings, VersionServer
from deployments.observability.metrics import SILENT, Telemetry
from deployments.settings import ModelSettings

logger: Final = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class LocalDirectories:
    """The model repository and the cache directory, if any; `cache_bytes` bounds it per model."""

    repository: Path
    cache: Path | None = None
    cache_bytes: int = 0

    def blobs(self, model: str) -> CompileCache | None:
        return (
            CompileCache(self.cache / model / "compiled", self.cache_bytes) if self.cache else None
        )

    def hot_shapes(self, model: str) -> HotShapes | None:
        return HotShapes(self.cache / model / "hot_shapes.json") if self.cache else None


class Loader:
    """Finds and loads the versions of one model. Compiles under the deployment's lock."""

    def __init__(
        self,
        places: LocalDirectories,
        lock: asyncio.Lock,
        progress: Callable[[str], None],
        reserved_cpus: float = 0,
        telemetry: Telemetry = SILENT,
    ) -> None:
        """`reserved_cpus`, if not 0, sets OpenVINO's threads: rounded down, at least one."""
        self._places = places
        self._reserved_cpus = reserved_cpus
        self._telemetry = telemetry
        self._repository = places.repository
        self._lock = lock
        self._progress = progress
        self._executions = SharedExecutions()

    def find(self, settings: ModelSettings) -> dict[int, FoundVersion]:
        """The versions that the source has. Blocks; raises SourceUnavailable."""
        name, source = settings.name, settings.source
        if isinstance(source, str) and source in BUILT_IN:
            return {1: FoundVersion(source)}
        if settings.remote:
            mirror = self._mirror(settings)
            known = mirror.known_versions(self._report)
            home = self._repository / name
            return {
                n: FoundVersion(home / str(n), origin, remote=True) for n, origin in known.items()
            }
        if isinstance(source, str):
            return find(name, source, self._repository)
        versions = fetch(name, source, self._repository, self._report)
        return {number: version_at(path) for number, path in versions.items()}

    async def load(
        self, number: int, files: FoundVersion, settings: ModelSettings
    ) -> VersionServer | IdleVersion:
        """Reads and compiles a version, and its warm-up shapes. Raises LoadFailed."""
        load = partial(self._load, number, files, settings)
        if not settings.unload_after_s:
            return await load()
        return IdleVersion(await load(), load, settings.unload_after_s)

    async def _load(
        self, number: int, files: FoundVersion, settings: ModelSettings
    ) -> VersionServer:
        try:
            return await self._loaded(number, files, settings)
        except (SourceUnavailable, CannotLoad, PolicyError) as error:
            if error.__cause__ is not None:
                logger.warning("%s", error.__cause__)
            raise LoadFailed(str(error)) from None
        except CannotReshape as error:
            raise LoadFailed(f"a warm-up shape cannot be compiled: {error}") from None
        except LoadFailed:
            raise
        except Exception:
            logger.exception("loading model '%s' failed", settings.name)
            raise LoadFailed("loading it failed, the server's log has the reason") from None

    async def _loaded(
        self, number: int, files: FoundVersion, settings: ModelSettings
    ) -> VersionServer:
        source = files.path
        if source is None:
            raise LoadFailed(files.problem)

        if files.remote:
            copy = partial(self._copy, number, files, settings)
            source = await shielded(asyncio.get_running_loop().run_in_executor(None, copy))

        def read() -> LoadedModel:
            blobs = self._places.blobs(settings.name)
            chosen = _version_settings(settings, blobs, self._reserved_cpus)
            return LoadedModel(settings.name, str(number), source, chosen)

        async with self._lock:
            version = await shielded(asyncio.get_running_loop().run_in_executor(None, read))
        cache = _cache_settings(settings)
        serving = VersionServer(version, cache, self._lock, self._executions, self._telemetry)
        try:
            await serving.warm_up(_warm_up_shapes(settings, version))
            await self._warm_up_remembered(serving, settings)
        except BaseException:
            await serving.close()
            raise
        return serving

    async def _warm_up_remembered(self, serving: VersionServer, settings: ModelSettings) -> None:
        """Warms up the remembered shapes, and skips those that do not suit the version."""
        hot = self._places.hot_shapes(settings.name)
        places = settings.max_compiled_shapes - len(settings.warm_up)
        count = min(settings.remember_shapes, places)
        if hot is None or count <= 0:
            return
        specs = serving.info.inputs
        for shapes in (await asyncio.to_thread(hot.read))[:count]:
            if len(shapes) == len(specs) and all(map(accepts, (s.dims for s in specs), shapes)):
                with suppress(CannotReshape):
                    await serving.warm_up([shapes])

    def _mirror(self, settings: ModelSettings) -> Mirror:
        assert isinstance(settings.source, str)
        return Mirror(settings.name, settings.source, settings.storage_options, self._repository)

    def _copy(self, number: int, files: FoundVersion, settings: ModelSettings) -> Path:
        """Copies a version from its store, and removes copies of versions the store has not."""
        mirror = self._mirror(settings)
        assert isinstance(files.signature, Origin)
        path = mirror.copy_missing({number: files.signature}, self._report)[number]
        with suppress(SourceUnavailable):
            mirror.prune(mirror.remote_versions())
        return path

    def _report(self, line: str) -> None:
        logger.info("%s", line)
        self._progress(f"it is being downloaded: {line}")


def _version_settings(
    settings: ModelSettings, blobs: CompileCache | None, reserved_cpus: float
) -> LoadSettings:
    threads = {"INFERENCE_NUM_THREADS": max(1, int(reserved_cpus))}
    limited = settings.device == "CPU" and reserved_cpus > 0
    return LoadSettings(
        device=settings.device,
        plugin_config={**(threads if limited else {}), **settings.plugin_config},
        shape=settings.shape_rules,
        batch_size=settings.batch_size,
        background=settings.reshape == "background",
        max_batch_rows=settings.batching.max_rows,
        stacking=settings.batching.stacking,
        preprocessing=settings.preprocessing,
        blobs=blobs,
        kernel_cache_bytes=settings.kernel_cache_mb << 20,
    )


def _cache_settings(settings: ModelSettings) -> CacheSettings:
    return CacheSettings(
        bound=settings.max_compiled_shapes,
        blocking=settings.reshape == "blocking",
        promote_after=settings.promote_after,
        compiles_per_minute=settings.compiles_per_minute,
    )


def _warm_up_shapes(settings: ModelSettings, version: LoadedModel) -> list[list[tuple[int, ...]]]:
    """The warm-up shapes in the order of the model's inputs. Raises PolicyError."""
    names = [spec.name for spec in version.info.inputs]
    shapes = []
    for entry in settings.warm_up_shapes:
        by_name = entry if isinstance(entry, dict) else dict.fromkeys(names, entry)
        if by_name.keys() != set(names):
            raise PolicyError(f"warm_up names {sorted(by_name)}, the inputs are {names}")
        for spec in version.info.inputs:
            if not accepts(spec.dims, by_name[spec.name]):
                raise PolicyError(
                    f"warm_up has {dims(by_name[spec.name])} for input '{spec.name}', "
                    f"which takes {spell(spec.dims)}"
                )
        shapes.append([by_name[name] for name in names])
    return shapes
