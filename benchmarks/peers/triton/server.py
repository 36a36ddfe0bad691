"""Writes a model repository for tritonserver, starts and ends the server."""

import contextlib
import os
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, TypeAlias

import httpx
import openvino as ov
import psutil

from benchmarks.peers.environments import environment
from benchmarks.peers.servers import end
from tests.e2e.server import family, free_ports, stop

Compilations: TypeAlias = Literal["static", "dynamic"]
INSTANCES: Final = os.cpu_count() or 1
"""The instances of the model, each with one thread of OpenVINO."""
START_S: Final = 60.0
SHM_BYTES: Final = 16 << 20
"""The shared memory of an instance's requests and answers: its first size, and each increase."""
STUB: Final = "triton_python_backend_stub"
CONFIG: Final = """\
name: "{name}"
backend: "python"
max_batch_size: 0
input {{ name: "{input}" data_type: TYPE_FP32 dims: {input_dims} }}
output {{ name: "{output}" data_type: TYPE_FP32 dims: {output_dims} }}
instance_group {{ kind: KIND_CPU count: {instances} }}
parameters {{ key: "path" value: {{ string_value: "{path}" }} }}
parameters {{ key: "compilations" value: {{ string_value: "{compilations}" }} }}
"""


def config(name: str, path: Path, compilations: Compilations) -> str:
    """config.pbtxt for an IR with one FP32 input and one FP32 output, of any size."""
    model = ov.Core().read_model(path)
    return CONFIG.format(
        name=name,
        input=model.input(0).any_name,
        input_dims=[-1] * len(model.input(0).partial_shape),
        output=model.output(0).any_name,
        output_dims=[-1] * len(model.output(0).partial_shape),
        instances=INSTANCES,
        path=path,
        compilations=compilations,
    )


@contextmanager
def started(
    name: str, model: Path, compilations: Compilations, directory: Path
) -> Iterator[tuple[str, psutil.Process]]:
    """Starts the server, yields its URL for inferences and its process, and ends it afterwards.

    Raises RuntimeError if the server does not get ready.
    """
    packages = _packages()
    port, shm_prefix = free_ports(1)[0], f"bench_{os.getpid()}_{compilations}_"
    home = directory / f"triton-{compilations}-{port}"
    repository = _repository(home / "models", name, config(name, model, compilations))
    command: list[str | Path] = [packages / "pytriton" / "tritonserver" / "bin" / "tritonserver"]
    command += _flags(repository, _backends(packages, home), port, shm_prefix)
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, env=_variables(packages), stdout=log, stderr=log)
    process = psutil.Process(server.pid)
    try:
        _wait_until_ready(server, f"http://127.0.0.1:{port}", home / "log")
        yield f"http://127.0.0.1:{port}/v2/models/{name}/infer", process
    finally:
        members = family(process)
        stop(process)
        end(members)
        server.wait(10)
        for left in Path("/dev/shm").glob(f"{shm_prefix}*"):  # a killed server leaves them
            left.unlink(missing_ok=True)


def _wait_until_ready(server: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/v2/health/ready", timeout=5).status_code == 200:
                return
        time.sleep(0.1)  # polls, because another process owns the port
    errors = [line for line in log.read_text().splitlines() if line.startswith("E")]
    raise RuntimeError(f"tritonserver is not ready, its log has: {' '.join(errors)[-1000:]}")


def _packages() -> Path:
    """The directory of the environment's packages."""
    found: Path = next((environment("triton").parent / "lib").glob("python*/site-packages"))
    return found


def _repository(place: Path, name: str, text: str) -> Path:
    version = place / name / "1"
    version.mkdir(parents=True)
    (place / name / "config.pbtxt").write_text(text)
    shutil.copyfile(Path(__file__).with_name("model.py"), version / "model.py")
    return place


def _backends(packages: Path, home: Path) -> Path:
    """Copies the Python backend, with the stub for this version of Python where it looks for it."""
    server = packages / "pytriton" / "tritonserver"
    backends = home / "backends"
    shutil.copytree(server / "backends", backends)
    version = sysconfig.get_python_version()
    shutil.copy(server / "python_backend_stubs" / version / STUB, backends / "python" / STUB)
    return backends


def _flags(repository: Path, backends: Path, port: int, shm_prefix: str) -> list[str]:
    python = {
        "shm-region-prefix-name": shm_prefix,
        "shm-default-byte-size": SHM_BYTES,
        "shm-growth-byte-size": SHM_BYTES,
    }
    return [
        f"--model-repository={repository}",
        f"--backend-directory={backends}",
        "--http-address=127.0.0.1",
        f"--http-port={port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        *(f"--backend-config=python,{key}={value}" for key, value in python.items()),
    ]


def _variables(packages: Path) -> dict[str, str]:
    """The server's environment. Its stub embeds Python, isolated, and takes the packages of the
    first `python3` in PATH."""
    libraries = [str(packages / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    return {
        **os.environ,
        "PATH": os.pathsep.join([str(environment("triton")), os.environ["PATH"]]),
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
    }
