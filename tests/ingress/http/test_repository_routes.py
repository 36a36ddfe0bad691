"""The HTTP routes of the repository and of the configuration, without a server."""

from typing import Any

import httpx
import pytest

from deployments.inference import ModelStatus, VersionStatus
from deployments.ingress.dataplane.served_models import ServedModels
from deployments.ingress.http.routes import HttpRoutes
from deployments.settings import Limits
from tests.ingress.replicas import INFO, Replicas, served

OFF = "the API does not load or unload models on this server: model_control is false"


def client(replicas: Replicas, *, control: bool = False) -> httpx.AsyncClient:
    models = ServedModels({"doubler": served(replicas)}, Limits(), None, control=control)
    transport = httpx.ASGITransport(HttpRoutes(models, None).application())
    return httpx.AsyncClient(transport=transport, base_url="http://here")


def told(version: str, state: str, code: str = "OK", message: str = "") -> dict[str, Any]:
    status = {"error_code": code, "error_message": message}
    return {"version": version, "state": state, "status": status}


async def test_the_config_has_the_state_of_every_version() -> None:
    status = ModelStatus(
        "AVAILABLE",
        "",
        (
            VersionStatus("1", "UNLOADING", "it is being unloaded"),
            VersionStatus("2", "AVAILABLE", "", INFO),
            VersionStatus("3", "LOADING"),
            VersionStatus("4", "UNAVAILABLE", "m.bin cannot be read: permission denied"),
        ),
    )
    async with client(Replicas(status)) as http:
        config = (await http.get("/v1/config")).json()
        index = (await http.post("/v2/repository/index")).json()
    expected = [
        told("1", "UNLOADING", message="it is being unloaded"),
        told("2", "AVAILABLE"),
        told("3", "LOADING"),
        told("4", "END", "UNAVAILABLE", "m.bin cannot be read: permission denied"),
    ]
    assert {"doubler": {"model_version_status": expected}} == config
    states = ["UNLOADING", "READY", "LOADING", "UNAVAILABLE"]
    assert states == [entry["state"] for entry in index]
    assert "m.bin cannot be read: permission denied" == index[3]["reason"]


async def test_reload_has_the_replicas_look_and_says_whether_that_changed_anything() -> None:
    replicas = Replicas()
    async with client(replicas) as http:
        first, second = [await http.post("/v1/config/reload") for _ in range(2)]
        now = (await http.get("/v1/config")).json()
    assert ([201, 200], 2) == ([first.status_code, second.status_code], replicas.looks)
    assert now == first.json() == second.json()


async def test_reload_with_replicas_that_do_not_answer_tells_their_status() -> None:
    replicas = Replicas()

    async def look(timeout_s: float) -> bool:
        assert Limits().timeout_s == timeout_s
        raise TimeoutError

    replicas.look = look  # type: ignore[method-assign]
    async with client(replicas) as http:
        answer = await http.post("/v1/config/reload")
    assert 200 == answer.status_code
    assert ["doubler"] == list(answer.json())


@pytest.mark.parametrize("verb", ["load", "unload"])
async def test_models_are_not_loaded_and_unloaded_unless_the_settings_say_so(verb: str) -> None:
    async with client(Replicas()) as http:
        answer = await http.post(f"/v2/repository/models/doubler/{verb}")
    assert (403, {"error": OFF}) == (answer.status_code, answer.json())


async def test_a_model_is_unloaded_and_loaded() -> None:
    model = "/v2/repository/models/doubler"
    async with client(Replicas(), control=True) as http:
        assert 200 == (await http.get("/v2/models/doubler/ready")).status_code
        assert 200 == (await http.post(f"{model}/unload")).status_code
        gone = await http.get("/v2/models/doubler")
        assert 503 == gone.status_code
        assert "it was unloaded over the API" in gone.json()["error"]
        assert 200 == (await http.post(f"{model}/load")).status_code
        assert 200 == (await http.get("/v2/models/doubler/ready")).status_code
        assert 404 == (await http.post("/v2/repository/models/other/load")).status_code


async def test_loading_what_cannot_be_loaded_says_why() -> None:
    replicas = Replicas(ModelStatus("UNAVAILABLE", "no such file"))

    async def set_unloaded(unloaded: bool, timeout_s: float) -> None:
        pass

    replicas.set_unloaded = set_unloaded  # type: ignore[method-assign]
    async with client(replicas, control=True) as http:
        answer = await http.post("/v2/repository/models/doubler/load")
    assert 503 == answer.status_code
    assert {"error": "model 'doubler' is not available: no such file"} == answer.json()
