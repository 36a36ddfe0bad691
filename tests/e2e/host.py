"""A Ray cluster that serves one configuration after the other, by `serve deploy`."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.e2e.server import NO_TLS, START_S, Server, running
from tests.waiting import until


@dataclass
class Host:
    """A cluster that tests share, because starting one takes ten seconds more than a deployment."""

    _directory: Path
    _running: contextlib.ExitStack
    _server: Server | None = None

    def serve(self, config: dict[str, Any], models: Path) -> Server:
        """Deploys a configuration instead of the previous one, whose models' files must exist."""
        application = config["applications"][0]
        application["runtime_env"]["env_vars"]["ANYSHAPE_MODELS"] = str(models)
        if self._server is None:
            # Ray exports metrics every second instead of every ten, so that tests need not wait.
            variables = {"RAY_metrics_report_interval_ms": "1000"}
            started = running(config, self._directory, variables)
            self._server = self._running.enter_context(started)
        else:
            _replace(self._server, application)
        return self._server


@contextlib.contextmanager
def host(directory: Path) -> Iterator[Host]:
    with contextlib.ExitStack() as stack:
        yield Host(directory, stack)


def _replace(server: Server, application: dict[str, Any]) -> None:
    before = server.replicas()

    def change(current: dict[str, Any]) -> None:
        ports = current["runtime_env"]["env_vars"]
        own = application["runtime_env"]["env_vars"]
        current.clear()
        # With other variables, so that Serve replaces all old replicas.
        current.update({**application, "runtime_env": {"env_vars": {**ports, **own}}})

    server.deploy(change)
    names = [model["name"] for model in application["args"]["models"]]
    until(
        lambda: not any(map(psutil.Process.is_running, before)) and _serves(server, names),
        "the other models are served",
        patience_s=START_S,
        every_s=0.2,
    )


def _serves(server: Server, names: list[str]) -> bool:
    with contextlib.suppress(httpx.TransportError):
        told = httpx.get(f"{server.url}/v2/models", timeout=5, verify=NO_TLS)
        ready = httpx.get(f"{server.url}/v2/health/ready", timeout=5, verify=NO_TLS)
        return (
            told.status_code == ready.status_code == 200
            and [model["name"] for model in told.json()["models"]] == names
        )
    return False
