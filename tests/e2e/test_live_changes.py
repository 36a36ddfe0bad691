"""A running server takes changes of files and settings without a failed request."""

import os
import shutil
from collections.abc import AsyncIterator, Iterator
from functools import partial
from hashlib import sha384
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import openvino as ov
import pytest

from tests.e2e.conftest import config
from tests.e2e.host import Host
from tests.e2e.live import eventually, load, put_version, reason, states, until
from tests.e2e.server import Server
from tests.model.file_server import Server as FileServer

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

INFER = {"inputs": [{"name": "data", "datatype": "FP32", "shape": [1, 5], "data": [0.0] * 5}]}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("live-models")
    for model in ("counting", "ruled", "broken", "fetched", "later"):
        put_version(path / model, 1)
    return path


@pytest.fixture(scope="module")
def unpublished(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a model that nobody can fetch yet, by their paths in URLs."""
    directory = tmp_path_factory.mktemp("unpublished")
    put_version(directory, 1)
    return {f"/{path.name}": path.read_bytes() for path in sorted((directory / "1").iterdir())}


@pytest.fixture(scope="module")
def remote() -> Iterator[FileServer]:
    """Has no files yet."""
    with FileServer() as http:
        http.bodies = {}
        Thread(target=http.serve_forever, daemon=True).start()
        yield http
        http.shutdown()


@pytest.fixture(scope="module")
def live(
    shared_host: Host, files: Path, unpublished: dict[str, bytes], remote: FileServer
) -> Server:
    late = [
        {"url": remote.url(path), "sha384": sha384(body).hexdigest()}
        for path, body in unpublished.items()
    ]
    models: list[dict[str, Any]] = [
        {"name": "counting", "source": "counting"},
        {"name": "ruled", "source": "ruled", "reshape": "blocking"},
        {"name": "broken", "source": "broken"},
        {"name": "fetched", "source": "fetched", "poll_s": 0.0, "model_version_policy": "all"},
        {"name": "late", "source": late},
    ]
    return shared_host.serve(config(models, model_control=True), files)


@pytest.fixture
async def http(live: Server) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=live.url, timeout=60) as client:
        yield client


# What comes late ---------------------------------------------------------------------------------


async def test_a_model_that_could_not_be_had_is_retried_and_comes(
    http: httpx.AsyncClient, files: Path, unpublished: dict[str, bytes], remote: FileServer
) -> None:
    """It keeps nobody from the models beside it."""
    reply = await http.get("/v2/models/late/ready")
    assert 503 == reply.status_code
    assert "404" in reply.json()["error"]
    assert 200 == (await http.post("/v2/models/counting/infer", json=INFER)).status_code

    remote.bodies = unpublished
    await eventually(partial(states, http, "late"), {"1": "AVAILABLE"})
    assert 200 == (await http.get("/v2/models/late/ready")).status_code
    assert ("1", [1.0] * 5) == _answer(await http.post("/v2/models/late/infer", json=INFER))
    assert ov.Core().read_model(files / "late" / "1" / "m.xml").inputs


# Versions ----------------------------------------------------------------------------------------


async def test_versions_come_and_go_under_load(
    live: Server, http: httpx.AsyncClient, files: Path
) -> None:
    now = partial(states, http, "counting")
    async with load(live.url, "/v2/models/counting") as seen:
        assert 1 == seen.last
        put_version(files / "counting", 2)
        await until(lambda: seen.last == 2)
        await eventually(now, {"2": "AVAILABLE"})
        shutil.rmtree(files / "counting" / "1")
        put_version(files / "counting", 3)
        await until(lambda: seen.last == 3)
        shutil.rmtree(files / "counting" / "3")
        await until(lambda: seen.last == 2)
        await eventually(now, {"2": "AVAILABLE"})
    assert 404 == (await http.get("/v2/models/counting/versions/3")).status_code
    metadata = (await http.get("/v2/models/counting")).json()
    assert (["2"], [-1, -1]) == (metadata["versions"], metadata["inputs"][0]["shape"])


async def test_files_of_a_version_that_are_replaced_are_loaded(
    live: Server, http: httpx.AsyncClient, files: Path
) -> None:
    put_version(files / "counting", 2)
    folder = files / "counting" / "2"
    pids = live.replica_pids("counting")
    async with load(live.url, "/v2/models/counting"):
        # In place, as `cp` does it: a mapped file would take the replica down with it.
        weights = folder / "m.bin"
        content = weights.read_bytes()
        weights.write_bytes(b"")
        await eventually(partial(states, http, "counting"), {"2": "AVAILABLE"})
        await until(lambda: bool(_reason(live, "counting")))
        weights.write_bytes(content)
        await until(lambda: not _reason(live, "counting"))
    assert pids == live.replica_pids("counting")


def _reason(server: Server, model: str) -> str:
    index = httpx.post(f"{server.url}/v2/repository/index", timeout=10).json()
    (entry,) = [entry for entry in index if entry["name"] == model]
    return str(entry["reason"])


async def test_what_is_broken_is_told_with_its_reason_and_mended_without_a_restart(
    live: Server, http: httpx.AsyncClient, files: Path
) -> None:
    folder = files / "broken"
    for number in (2, 3, 4, 5):
        put_version(folder, number)
    (folder / "2" / "m.bin").write_bytes(b"short")
    xml = (folder / "3" / "m.xml").read_bytes()
    (folder / "3" / "m.xml").write_bytes(xml[: len(xml) // 2])
    for file in list((folder / "4").iterdir()):
        file.unlink()
    weights = folder / "5" / "m.bin"
    kept = weights.rename(folder / "5" / ".kept")
    os.symlink("no_allocation", weights)  # like a file that may not be read, which root always may
    live.deploy(lambda app: _settings(app, "broken", model_version_policy="all"))
    broken = dict.fromkeys(("2", "3", "4", "5"), "END")
    async with load(live.url, "/v2/models/counting"):
        await eventually(partial(states, http, "broken"), {"1": "AVAILABLE", **broken})
        assert "OpenVINO cannot read m.xml" in await reason(http, "broken", "2")
        assert "OpenVINO cannot read m.xml" in await reason(http, "broken", "3")
        expected = "its directory has no model file (.xml, .onnx, .tflite, .pdmodel, .pb)"
        assert expected in await reason(http, "broken", "4")
        expected = "m.bin cannot be read: no such file or directory"
        assert expected in await reason(http, "broken", "5")
        answer = await http.post("/v2/models/broken/infer", json=INFER)
        assert ("1", [1.0] * 5) == _answer(answer)
        weights.unlink()
        kept.rename(weights)
        for number in (2, 3, 4):
            put_version(folder, number)
        await eventually(
            partial(states, http, "broken"), dict.fromkeys(("1", *broken), "AVAILABLE")
        )
    for version in ("1", *broken):
        answer = await http.post(f"/v2/models/broken/versions/{version}/infer", json=INFER)
        assert (version, [float(version)] * 5) == _answer(answer)


def _answer(response: httpx.Response) -> tuple[str, list[float]]:
    assert 200 == response.status_code, response.text
    told = response.json()
    return told["model_version"], [round(value, 3) for value in told["outputs"][0]["data"]]


# Settings ----------------------------------------------------------------------------------------


def _settings(app: dict[str, Any], model: str, **user_config: Any) -> None:
    deployments = [d for d in app.get("deployments", []) if d["name"] != model]
    app["deployments"] = [*deployments, {"name": model, "user_config": user_config}]


async def test_settings_change_there_and_back_under_load(
    live: Server, http: httpx.AsyncClient
) -> None:
    async def status_of_five() -> int:
        return (await http.post("/v2/models/ruled/infer", json=INFER)).status_code

    pids = live.replica_pids("ruled")
    assert 200 == await status_of_five()
    async with load(live.url, "/v2/models/ruled", sizes=(2, 3, 4)):
        live.deploy(lambda app: _settings(app, "ruled", shape="(-1,1:4)"))
        await eventually(status_of_five, 400)
        live.deploy(lambda app: _settings(app, "ruled"))
        await eventually(status_of_five, 200)
        live.deploy(lambda app: _settings(app, "ruled", max_compiled_shapes=1))
        await until(lambda: live.statistics("ruled")["max_compiled_shapes"] == 1)
        await until(lambda: live.statistics("ruled")["evictions"] > 20)
        assert 1 >= live.statistics("ruled")["compiled_shapes"]
        live.deploy(lambda app: _settings(app, "ruled"))
        await until(lambda: live.statistics("ruled")["max_compiled_shapes"] == 16)
    assert pids == live.replica_pids("ruled")


async def test_settings_that_contradict_each_other_change_nothing_and_are_told(
    live: Server, http: httpx.AsyncClient
) -> None:
    async def told() -> str:
        return next(m["reason"] for m in (await _models(http)) if m["name"] == "ruled")

    live.deploy(lambda app: _settings(app, "ruled", shape="(1,", reshape="never"))
    await eventually(lambda: _starts(told(), "user_config is refused: "), True)
    assert "reshape" in await told()
    assert 200 == (await http.post("/v2/models/ruled/infer", json=INFER)).status_code
    live.deploy(lambda app: _settings(app, "ruled"))
    await eventually(told, "")


async def _models(http: httpx.AsyncClient) -> list[dict[str, str]]:
    answer = await http.get("/v2/models")
    assert 200 == answer.status_code, answer.text
    models: list[dict[str, str]] = answer.json()["models"]
    return models


async def _starts(text: Any, start: str) -> bool:
    return str(await text).startswith(start)


async def test_a_model_that_is_added_or_removed_replaces_no_replica(
    live: Server, http: httpx.AsyncClient
) -> None:
    async def served() -> list[str]:
        return [model["name"] for model in await _models(http)]

    before = await served()
    pids = {model: live.replica_pids(model) for model in before}
    async with load(live.url, "/v2/models/counting") as seen:
        live.deploy(lambda app: app["args"]["models"].append({"name": "later", "source": "later"}))
        await eventually(partial(states, http, "later"), {"1": "AVAILABLE"})
        assert ("1", [1.0] * 5) == _answer(await http.post("/v2/models/later/infer", json=INFER))
        live.deploy(lambda app: app["args"]["models"].pop())
        await eventually(served, before)
        assert 404 == (await http.post("/v2/models/later/infer", json=INFER)).status_code
    assert seen.asked
    assert pids == {model: live.replica_pids(model) for model in before}


# Over the API ------------------------------------------------------------------------------------


async def test_what_is_not_looked_for_is_found_on_reload(
    http: httpx.AsyncClient, files: Path
) -> None:
    now = partial(states, http, "fetched")
    assert 200 == (await http.post("/v1/config/reload")).status_code
    put_version(files / "fetched", 2)
    assert {"1": "AVAILABLE"} == await now()
    answer = await http.post("/v1/config/reload")
    assert 201 == answer.status_code
    found = {"1": "AVAILABLE", "2": "AVAILABLE"}
    assert found == await now()
    assert ("2", [2.0] * 5) == _answer(await http.post("/v2/models/fetched/infer", json=INFER))


async def test_a_model_is_unloaded_and_loaded_again(http: httpx.AsyncClient) -> None:
    model = "/v2/repository/models/fetched"
    assert 200 == (await http.post(f"{model}/unload")).status_code
    answer = await http.post("/v2/models/fetched/infer", json=INFER)
    assert (503, True) == (answer.status_code, "unloaded over the API" in answer.text)
    assert 200 == (await http.get("/v2/health/ready")).status_code
    assert 200 == (await http.post(f"{model}/load")).status_code
    assert ("2", [2.0] * 5) == _answer(await http.post("/v2/models/fetched/infer", json=INFER))
