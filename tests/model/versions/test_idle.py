"""Versions that are unloaded while no request uses them, and loaded again for the next."""

import asyncio
import gc
import weakref
from pathlib import Path
from typing import Any

import openvino as ov
import pytest

from deployments.model.versions.idle import IdleVersion
from deployments.model.versions.serving import VersionServer
from deployments.transport.routing_stats import MOST_COST, RoutingStats
from tests.e2e.live import put_version
from tests.model.models import add_one
from tests.model.versions.from_files import ask, loaded, settings


async def test_an_idle_version_is_let_go_of_and_comes_back_for_the_next_request(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, unload_after_s=0.2)
    assert isinstance(serving, IdleVersion)
    info = serving.info
    for _ in range(2):
        assert 1.0 == await ask(serving, 1, 4)
        assert serving.statistics()["requests"] == 1
        slots = serving.routing().slots
        await _idle(serving)
        assert {"idle": True} == serving.statistics()
        asleep = serving.routing()
        assert (True, MOST_COST, slots) == (asleep.ready, asleep.compile_cost, asleep.slots)
        assert await serving.shapes() is None
        assert info is serving.info
    assert [1.0, 1.0] == [*await asyncio.gather(ask(serving, 1, 4), ask(serving, 1, 5))]
    assert 2 == serving.statistics()["requests"]
    await serving.close()


async def test_an_idle_version_that_cannot_be_loaded_again_says_why_without_trying_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, unload_after_s=0.05)
    assert isinstance(serving, IdleVersion)
    await _idle(serving)
    (tmp_path / "models" / "m" / "1" / "m.bin").unlink()
    with pytest.raises(AssertionError, match=r"not available: OpenVINO cannot read m\.xml"):
        await ask(serving, 1, 4)
    put_version(tmp_path / "models" / "m", 1)
    with pytest.raises(AssertionError, match=r"not available: OpenVINO cannot read m\.xml"):
        await ask(serving, 1, 4)
    monkeypatch.setattr(serving, "_failed_until", 0.0)
    assert 1.0 == await ask(serving, 1, 4)
    await serving.close()


async def test_an_idle_version_does_not_come_back_as_another(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "m"
    put_version(folder, 1)
    serving = await loaded(tmp_path, unload_after_s=0.05)
    assert isinstance(serving, IdleVersion)
    await _idle(serving)
    ov.save_model(add_one((1, 4)), folder / "1" / "m.xml", compress_to_fp16=False)
    with pytest.raises(
        AssertionError, match="its files have changed since this version was loaded"
    ):
        await ask(serving, 1, 4)
    await serving.close()


async def test_a_closed_version_does_not_wait_to_be_idle(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, unload_after_s=3600.0)
    assert isinstance(serving, IdleVersion)
    asked = asyncio.ensure_future(ask(serving, 1, 4))
    await asyncio.sleep(0)
    await serving.close()
    assert 1.0 == await asked
    assert serving._timer is None
    assert serving._serving is None


async def test_a_version_that_is_let_go_of_takes_no_memory_without_the_garbage_collector(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, warm_up=["(1,4)"])
    assert isinstance(serving, VersionServer)
    await ask(serving, 1, 5)
    version = weakref.ref(serving.version)
    gc.collect()
    gc.disable()
    try:
        await serving.close()
        del serving
        assert version() is None
    finally:
        gc.enable()


class Slow:
    """Stands in for a version whose inference takes as long as the test says."""

    def __init__(self) -> None:
        self.done = asyncio.Event()
        self.closed = asyncio.Event()
        self.info = settings()  # has a name, for the log

    async def run(self, key: Any, members: Any) -> list[Any]:
        await self.done.wait()
        return []

    def hot_shapes(self, count: int) -> list[Any]:
        return []

    def routing(self) -> RoutingStats:
        return RoutingStats()

    async def close(self) -> None:
        self.closed.set()


async def test_a_version_that_answers_is_not_idle() -> None:
    slow: Any = Slow()

    async def never() -> Any:
        raise AssertionError

    serving = IdleVersion(slow, never, 0.01)
    asked = asyncio.ensure_future(serving.run((), []))
    await asyncio.sleep(0.1)
    assert not slow.closed.is_set()
    slow.done.set()
    await asked
    await slow.closed.wait()


async def _idle(serving: IdleVersion) -> None:
    for _ in range(1000):
        if serving.statistics()["idle"]:
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it stays")
