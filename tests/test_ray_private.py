"""What is private of Ray and uvicorn, against the installed packages."""

import ast
import asyncio
import inspect
import logging
import textwrap
from pathlib import Path
from typing import Any, cast

import httptools
import pytest
import ray.serve
import uvicorn
from ray import serve
from ray.serve import Deployment
from ray.serve._private import router as ray_router
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve.handle import DeploymentHandle
from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http import auto
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from deployments import ray_private
from deployments.ingress.routing.router import ShapeRouter

ROOT = Path(__file__).parents[1] / "deployments"
SERVE = Path(ray.serve.__file__).parent


def modules_importing(prefix: str) -> set[str]:
    found = set()
    for path in ROOT.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            if any(f"{name}.".startswith(prefix) for name in names):
                found.add(str(path.relative_to(ROOT)))
    return found


def in_serve(text: str) -> bool:
    return any(text in path.read_text() for path in SERVE.rglob("*.py"))


def names_in(function: Any) -> set[str]:
    """The attributes that a function or a class uses."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def test_one_module_each_knows_what_is_private() -> None:
    assert {"ray_private.py"} == modules_importing("ray.serve._private.")
    assert {"ingress/http/body_reader.py"} == modules_importing("uvicorn.")
    assert {"ingress/http/body_reader.py"} == modules_importing("httptools.")


# Ray --------------------------------------------------------------------------------------------


def test_handles_take_the_private_options() -> None:
    assert "_by_reference" in inspect.signature(DeploymentHandle.options).parameters
    assert "_check_exists" in inspect.signature(serve.get_deployment_handle).parameters


def test_a_handle_has_its_router_and_that_its_loop_and_its_metrics() -> None:
    assert "_router" in names_in(DeploymentHandle)
    single = names_in(ray_router.CurrentLoopRouter)
    assert {"_asyncio_loop", "_asyncio_router"} <= single
    assert {"_metrics_manager", "_request_router"} <= names_in(ray_router.AsyncioRouter)
    metrics = names_in(ray_router.RouterMetricsManager)
    assert {"num_queued_requests", "num_requests_sent_to_replicas", "_deployment_id"} <= metrics


def test_a_handle_without_a_router_on_this_loop_has_nothing_and_counts_nothing() -> None:
    async def counted() -> None:
        router = ray_private.HandleRouter(cast("DeploymentHandle[Any]", object()))
        assert router.attribute("affinity", object) is None
        router.count_queued(1)
        router.count_sent("replica", 1)

    asyncio.run(counted())


def test_the_request_router_calls_what_ours_overrides() -> None:
    for name in (
        "update_replicas",
        "on_replica_actor_died",
        "on_replica_actor_unavailable",
        "choose_replicas",
        "_select_from_candidate_replicas",
    ):
        theirs = list(inspect.signature(getattr(RequestRouter, name)).parameters)
        ours = list(inspect.signature(getattr(ShapeRouter, name)).parameters)
        assert len(theirs) == len(ours), name
    for name in ("replica_queue_len_cache", "curr_replicas"):
        assert isinstance(getattr(RequestRouter, name), property)
    assert in_serve("self_node_id=")


def test_a_deployments_version_of_its_own_survives_serves() -> None:
    @serve.deployment
    class Empty:
        pass

    deployment = ray_private.with_version(cast("Deployment", Empty), "own")
    config = deployment._deployment_config
    config.version = "serves"
    assert "own" == config.version
    assert in_serve("deployment_config.version = version")


@pytest.mark.parametrize(
    "text",
    [
        f'"{ray_private.ACCESS_LOG_MARK}"',
        ray_private.NO_DISCONNECT_TASK[0].decode(),
        "__serve_build_asgi_app__",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP",
    ],
)
def test_serve_still_has_what_is_known_by_its_name(text: str) -> None:
    assert in_serve(text)


def test_serves_filter_drops_records_of_the_access_log() -> None:
    record = logging.LogRecord("ray.serve", logging.INFO, "", 0, "", (), None)
    assert ray_private.log_access_log_filter(record)
    setattr(record, ray_private.ACCESS_LOG_MARK, True)
    assert not ray_private.log_access_log_filter(record)


# uvicorn ----------------------------------------------------------------------------------------


def test_uvicorns_auto_protocol_is_looked_up_when_a_server_starts() -> None:
    assert "uvicorn.protocols.http.auto:AutoHTTPProtocol" == HTTP_PROTOCOLS["auto"]
    assert "auto" == inspect.signature(uvicorn.Config).parameters["http"].default
    assert not in_serve(", http=")
    assert not in_serve(' http="')
    assert hasattr(auto, "AutoHTTPProtocol")


def test_uvicorns_protocol_has_what_ours_extends() -> None:
    for name in ("on_headers_complete", "on_body", "on_message_complete", "on_response_complete"):
        assert 1 <= len(inspect.signature(getattr(HttpToolsProtocol, name)).parameters) <= 2
    used = {"cycle", "parser", "scope", "headers", "transport"}
    assert used <= names_in(HttpToolsProtocol.__init__)
    assert {"transport", "response_complete"} <= names_in(RequestResponseCycle.__init__)
    assert callable(httptools.HttpRequestParser)
