"""Loading versions from real files with real OpenVINO, without Ray."""

import asyncio
import gc
import os
import shutil
import subprocess
import sys
import time
import weakref
from hashlib import sha384
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import openvino as ov
import pytest

from deployments.model.execution.requests import BatchMember
from deployments.model.versions.idle import IdleVersion
from deployments.model.versions.lifecycle import LoadFailed
from deployments.model.versions.loader import Loader, LocalDirectories
from deployments.model.versions.serving import VersionServer
from deployments.model.versions.versions import Versions
from deployments.settings import ModelSettings
from deployments.transport.routing_stats import MOST_COST, RoutingStats
from tests.e2e.live import counting_model, put_version
from tests.model.loading import tensor
from tests.model.models import add_one


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
    """The number that the version adds."""
    tensors = serving.info.arrange([tensor(np.zeros(shape), name="data")])
    key, rows = serving.info.key_and_rows(tensors, 100)
    work = BatchMember(tensors, rows, (), time.monotonic() + 10, 10.0)
    (answer,) = await serving.run(key, [work])
    assert isinstance(answer, list), answer
    return round(float(np.asarray(answer[0].data).flat[0]), 3)


# Processors --------------------------------------------------------------------------------------


def properties(given: dict[str, Any]) -> dict[str, Any]:
    """Those of threads and their places."""
    return {
        name: given[name]
        for name in ("INFERENCE_NUM_THREADS", "ENABLE_CPU_PINNING")
        if name in given
    }


@pytest.mark.parametrize(
    ("reserved_cpus", "plugin_config", "expected"),
    [
        (0, {}, {"ENABLE_CPU_PINNING": False}),
        (0, {"ENABLE_CPU_PINNING": True}, {"ENABLE_CPU_PINNING": True}),
        (1, {}, {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}),
        (2.5, {}, {"INFERENCE_NUM_THREADS": 2, "ENABLE_CPU_PINNING": False}),
        (0.5, {}, {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False}),
        (
            2,
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": True},
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": True},
        ),
        (
            0,
            {"INFERENCE_NUM_THREADS": 1},
            {"INFERENCE_NUM_THREADS": 1, "ENABLE_CPU_PINNING": False},
        ),
    ],
)
async def test_threads_follow_the_reserved_processors_and_are_not_pinned(
    tmp_path: Path,
    reserved_cpus: float,
    plugin_config: dict[str, Any],
    expected: dict[str, Any],
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    with patch.object(
        ov.Core, "compile_model", autospec=True, side_effect=ov.Core.compile_model
    ) as spy:
        serving = await loaded(tmp_path, reserved_cpus=reserved_cpus, plugin_config=plugin_config)
    assert expected == properties(spy.call_args.args[3])
    assert 1.0 == await ask(serving, 1, 4)
    await serving.close()


# Files -------------------------------------------------------------------------------------------


async def test_versions_are_loaded_from_their_directories(tmp_path: Path) -> None:
    for number in (1, 12):
        put_version(tmp_path / "models" / "m", number)
    assert [1, 12] == list(loader(tmp_path).find(settings()))
    serving = await loaded(tmp_path, 12)
    assert "12" == serving.info.version
    assert 12.0 == await ask(serving, 1, 4)
    await serving.close()


async def test_a_signature_changes_with_the_files_and_only_with_them(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    before = loader(tmp_path).find(settings())
    assert before == loader(tmp_path).find(settings())
    (tmp_path / "models" / "m" / "1" / ".notes").write_text("hidden files do not count")
    assert before == loader(tmp_path).find(settings())
    put_version(tmp_path / "models" / "m", 1)
    assert before != loader(tmp_path).find(settings())


def _truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _dangling(file: Path) -> None:
    file.unlink()
    os.symlink("no_allocation", file)


@pytest.mark.parametrize(
    ("file", "broken", "told"),
    [
        ("m.xml", _truncated, "OpenVINO cannot read m.xml"),
        ("m.bin", _truncated, "OpenVINO cannot read m.xml"),
        ("m.bin", Path.unlink, "OpenVINO cannot read m.xml"),
        ("m.xml", Path.unlink, "its directory has no model file (.xml, .onnx, .tflite, "),
        ("m.bin", _dangling, "m.bin cannot be read: no such file or directory"),
    ],
)
async def test_broken_files_are_told_in_words(
    file: str, broken: Any, told: str, tmp_path: Path
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    broken(tmp_path / "models" / "m" / "1" / file)
    with pytest.raises(LoadFailed) as caught:
        await loaded(tmp_path)
    assert told in str(caught.value)


_AS_NOBODY = """
import os, pathlib
from deployments.model.sources.local import SourceUnavailable, find
if os.geteuid() == 0:  # who may read everything
    os.setuid(65534)
try:
    print(find("m", "m", pathlib.Path())[1].problem)
except SourceUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("forbidden", "told"),
    [
        ("m/1/m.bin", "m.bin cannot be read: permission denied"),
        ("m/1", "its directory cannot be read: permission denied"),
        ("m", "m cannot be used: permission denied"),
    ],
)
def test_what_may_not_be_read_is_told(forbidden: str, told: str, tmp_path: Path) -> None:
    put_version(tmp_path / "m", 1)
    (tmp_path / forbidden).chmod(0)
    tmp_path.chmod(0o755)
    answer = subprocess.run(
        [sys.executable, "-c", _AS_NOBODY],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    ).stdout
    (tmp_path / forbidden).chmod(0o755)
    assert f"{told}\n" == answer


async def test_a_version_serves_on_when_its_files_are_overwritten_or_removed(
    tmp_path: Path,
) -> None:
    """A mapped file would end the process, or change the answers."""
    put_version(tmp_path / "models" / "m", 1)
    serving = await loaded(tmp_path, reshape="blocking")
    weights = tmp_path / "models" / "m" / "1" / "m.bin"
    weights.write_bytes(b"\xff" * weights.stat().st_size)
    assert 1.0 == await ask(serving, 1, 4)
    weights.write_bytes(b"")
    assert 1.0 == await ask(serving, 1, 5)
    await serving.close()


async def test_a_single_file_is_version_1(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    ov.save_model(counting_model(7), tmp_path / "models" / "seven.xml", compress_to_fp16=False)
    serving = await loaded(tmp_path, source="seven.xml")
    assert ("1", 7.0) == (serving.info.version, await ask(serving, 1, 4))
    await serving.close()


async def test_versions_of_a_store_are_copied_when_they_are_loaded(tmp_path: Path) -> None:
    store = tmp_path / "store" / "m"
    for number in (1, 2, 3):
        put_version(store, number)
    from_store, wanted = loader(tmp_path), settings(source=f"file://{store}")
    found = from_store.find(wanted)
    assert [1, 2, 3] == list(found)
    home = tmp_path / "models" / "m"
    for number in (2, 3):
        serving = await from_store.load(number, found[number], wanted)
        assert float(number) == await ask(serving, 1, 4)
        await serving.close()
    assert ["2", "3"] == sorted(path.name for path in home.iterdir() if path.name.isdigit())
    assert found == from_store.find(wanted)
    shutil.rmtree(store / "2")
    put_version(store, 3)
    changed = from_store.find(wanted)
    assert [1, 3] == list(changed)
    assert found[3] != changed[3]
    serving = await from_store.load(3, changed[3], wanted)
    assert 3.0 == await ask(serving, 1, 4)
    await serving.close()
    assert ["3"] == sorted(path.name for path in home.iterdir() if path.name.isdigit())
    shutil.rmtree(store)
    assert [3] == list(from_store.find(wanted))


async def test_a_source_that_becomes_a_store_serves_the_stores_version(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    store = tmp_path / "store"
    (store / "1").mkdir(parents=True)
    ov.save_model(counting_model(5), store / "1" / "m.xml", compress_to_fp16=False)
    serving = await loaded(tmp_path)
    assert 1.0 == await ask(serving, 1, 4)
    await serving.close()
    serving = await loaded(tmp_path, source=f"file://{store}")
    assert 5.0 == await ask(serving, 1, 4)
    await serving.close()


async def test_what_serves_goes_on_when_the_download_of_a_changed_source_fails(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    files = [
        {"url": f"http://127.0.0.1:9/{file.name}", "sha384": sha384(file.read_bytes()).hexdigest()}
        for file in sorted((tmp_path / "models" / "m" / "1").iterdir())
    ]
    from_files = loader(tmp_path)
    versions = Versions(settings(source=files), from_files.find, from_files.load)
    await versions.look()
    assert ("AVAILABLE", "") == (versions.status().state, versions.status().reason)
    changed = [files[0], {**files[1], "sha384": "00" * 48}]
    versions.reconfigure(settings(source=changed))
    await versions.look()
    status = versions.status()
    assert "AVAILABLE" == status.state
    assert "m.xml cannot be downloaded: connection refused; next try in" in status.reason
    serving = versions.version(None)
    assert serving is not None
    assert 1.0 == await ask(serving, 1, 4)
    await versions.close()


# Warm-up -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("warm_up", "told"),
    [
        ({"other": "(1,4)"}, "warm_up names ['other'], the inputs are ['data']"),
        ("(1,4,4)", "warm_up has [1,4,4] for input 'data', which takes (-1,-1)"),
    ],
)
async def test_warm_up_that_the_model_cannot_take_is_refused(
    warm_up: Any, told: str, tmp_path: Path
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    with pytest.raises(LoadFailed) as caught:
        await loaded(tmp_path, warm_up=[warm_up])
    assert told == str(caught.value)


async def test_what_is_remembered_is_compiled_if_it_suits_and_there_is_room(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    places = LocalDirectories(tmp_path / "models", tmp_path / "cache", 10**9)
    hot = places.hot_shapes("m")
    assert hot is not None
    hot.write([((1, 5),), ((1, 2, 3),), ((1, 3), (1, 3)), ((1, 6),), ((1, 7),)])
    serving = await loaded(
        tmp_path, cache=True, remember_shapes=5, warm_up=["(1,4)"], max_compiled_shapes=5
    )
    assert isinstance(serving, VersionServer)
    assert 3 == serving.statistics()["compiled_shapes"]
    await ask(serving, 1, 6)
    assert [((1, 6),)] == serving.hot(1)
    await serving.close()


# Idle --------------------------------------------------------------------------------------------


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
    with pytest.raises(AssertionError, match="its files are not those of this version any more"):
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
    assert serving._letting_go is None
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

    def hot(self, count: int) -> list[Any]:
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
