"""The deployment's own class, called as Serve calls it, without Ray."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deployments.errors import ModelUnavailable, VersionChanged
from deployments.inference import ShapeKey
from deployments.model.deployment import CompilationHangs, OpenVINOModel
from deployments.model.openvino.compiled_model import CompiledShape
from deployments.model.versions.loaded import LoadedModel
from deployments.model.versions.loader import LocalDirectories
from deployments.settings import Limits, ModelSettings
from deployments.transport.arena import PeerArenas
from deployments.transport.batches import ANY_ROUTE, BatchCall, BatchItem, BatchReply, pack, unpack
from deployments.transport.wire_format import FORMAT
from tests.e2e.live import put_version
from tests.model.loading import tensor


class Model(OpenVINOModel):
    def __del__(self) -> None:  # type: ignore[override]
        """Serve awaits what this returns; Python, when the object goes, would not."""


@asynccontextmanager
async def running(root: Path, **settings: Any) -> AsyncIterator[OpenVINOModel]:
    places = LocalDirectories(root / "models", root / "cache", 10**9)
    model = Model(
        ModelSettings(**{"name": "m", "source": "m", "poll_s": 0.05, **settings}),
        Limits(),
        places,
    )
    try:
        yield model
    finally:
        await model.shut_down()


async def ask(model: OpenVINOModel, *shape: int, revision: str | None = None) -> Any:
    """The number that the version adds, or the error."""
    info = (await model.status()).info
    assert info is not None
    tensors = info.arrange([tensor(np.zeros(shape), name="data")])
    key, rows = info.key_and_rows(tensors, 100)
    member = BatchItem(tuple(pack(t, None) for t in tensors), rows, (), 30.0)
    reply = await model.infer(BatchCall(revision or info.revision, key, (member,), None))
    assert isinstance(reply, BatchReply)
    (answer,) = reply.members
    if isinstance(answer, Exception):
        return answer
    return round(float(np.asarray(unpack(answer[0], None, PeerArenas()).data).flat[0]), 3)


async def eventually(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not await holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


async def test_a_model_is_loaded_when_its_first_configuration_comes(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path) as model:
        assert "LOADING" == (await model.status()).state
        assert not (await model.record_routing_stats())["ready"]
        await model.reconfigure({})
        assert "AVAILABLE" == (await model.status()).state
        assert (await model.record_routing_stats())["ready"]
        assert 1.0 == await ask(model, 1, 4)
        assert 1 == (await model.statistics())["requests"]
        report = await model.shapes("1")
        assert report is not None
        assert await model.shapes("2") is None


async def test_it_starts_without_what_of_its_configuration_cannot_be_used(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path) as model:
        await model.reconfigure({"shpae": "auto"})
        status = await model.status()
        expected = "user_config is refused: shpae: unknown setting, did you mean 'shape'?"
        assert ("AVAILABLE", expected) == (status.state, status.reason)


async def test_settings_that_contradict_each_other_change_nothing(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path, shape="(1:4,4)") as model:
        await model.reconfigure({"max_compiled_shapes": 3})
        await model.reconfigure({"batch_size": 5000})
        assert 3 == (await model.statistics())["max_compiled_shapes"]
        status = await model.status()
        assert "AVAILABLE" == status.state
        expected = "shape '(1:4,4)' does not allow batch_size 5000, set only one"
        assert f"user_config is refused: {expected}" == status.reason
        assert 1.0 == await ask(model, 1, 4)
        await model.reconfigure({})
        assert "" == (await model.status()).reason


async def test_a_call_for_what_is_not_there_any_more_says_so(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path) as model:
        await model.reconfigure({})
        error = await ask(model, 1, 4, revision="7-0123456789abcdef")
        assert isinstance(error, VersionChanged)
        assert "version '7' of model 'm' changed" in error.message
        call = BatchCall("1-0", ((-1, 4),), (BatchItem((), 1, (), 1.0),), None)
        await model.set_unloaded(True)
        reply = await model.infer(call)
        assert isinstance(reply, BatchReply)
        assert isinstance(reply.members[0], ModelUnavailable)


async def test_new_versions_are_found_and_looked_for_when_asked(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path) as model:
        await model.reconfigure({})
        put_version(tmp_path / "models" / "m", 2)

        async def second() -> bool:
            return bool(await ask(model, 1, 4) == 2.0)

        await eventually(second)
        await model.reconfigure({"poll_s": 0.0})
        put_version(tmp_path / "models" / "m", 3)
        assert await model.look()
        assert 3.0 == await ask(model, 1, 4)
        assert not await model.look()


async def test_hot_shapes_are_compiled_at_the_next_start(tmp_path: Path) -> None:
    put_version(tmp_path / "models" / "m", 1)
    rules = {"reshape": "blocking", "remember_shapes": 2}
    async with running(tmp_path, **rules) as model:
        await model.reconfigure({})
        for size, times in ((4, 1), (5, 3), (6, 9)):
            for _ in range(times):
                await ask(model, 1, size)
    async with running(tmp_path, **rules) as model:
        await model.reconfigure({})
        counters = await model.statistics()
        assert (2, 0) == (counters["compiled_shapes"], counters["requests"])
        for size in (6, 5, 4):
            assert 1.0 == await ask(model, 1, size)
        counters = await model.statistics()
        assert (2, 3) == (counters["hits"], counters["compiles"])


async def healthy_until_it_raises(model: OpenVINOModel) -> None:
    while True:
        await model.check_health()
        await asyncio.sleep(0.02)


async def test_a_replica_whose_compilation_hangs_says_so_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    async with running(tmp_path, reshape="blocking", compile_timeout_s=0.2) as model:
        await model.reconfigure({})
        assert 1.0 == await ask(model, 1, 3)
        await model.check_health()
        hanging, reshape = threading.Event(), LoadedModel.reshape

        def hang(version: LoadedModel, key: ShapeKey) -> Callable[[], CompiledShape]:
            hanging.wait()
            return reshape(version, key)

        monkeypatch.setattr(LoadedModel, "reshape", hang)
        asking = asyncio.ensure_future(ask(model, 1, 4))
        try:
            reason = r"^model 'm': .* compile_timeout_s \(0\.2\)"
            with pytest.raises(CompilationHangs, match=reason):
                await healthy_until_it_raises(model)
            assert 1.0 == await ask(model, 1, 3)
        finally:
            hanging.set()
        assert 1.0 == await asking
        await model.check_health()


async def test_an_ingress_of_other_code_gets_no_connection(tmp_path: Path) -> None:
    async with running(tmp_path) as model:
        before = await model.attend("nobody", bytes(16), ANY_ROUTE)  # as it was without formats
        later = await model.attend("nobody", bytes(16), ANY_ROUTE, FORMAT + 1)
    assert f"the replica's message format is {FORMAT}, the ingress's is 1" == before
    assert f"the replica's message format is {FORMAT}, the ingress's is {FORMAT + 1}" == later
