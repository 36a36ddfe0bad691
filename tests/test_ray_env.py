"""The variables that Ray is started with, and a check that Ray knows them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import ray

from tests.e2e.server import ray_environment

ROOT = Path(__file__).parents[1]


def known_to_ray(variable: str) -> bool:
    """Looks for a variable in the raylet's binary and in Ray's Python sources."""
    installed = Path(ray.__file__).parent
    sources = [installed / "core/src/ray/raylet/raylet", *installed.glob("_private/*.py")]
    name = re.compile(rb"\b" + variable.encode() + rb"\b")
    return any(name.search(source.read_bytes()) for source in sources)


def test_ray_knows_the_variables() -> None:
    assert ray_environment()
    assert [] == [name for name in ray_environment() if not known_to_ray(name)]
    assert not known_to_ray("RAY_num_worker_soft_limit")
    assert not known_to_ray("RAY_num_workers_soft")


def test_a_shell_reads_what_the_tests_read() -> None:
    """Reads ray.env as `make serve` does."""
    assert "set -a; . ./ray.env; set +a;" in (ROOT / "Makefile").read_text()
    show = f"{sys.executable} -c 'import json, os; print(json.dumps(dict(os.environ)))'"
    script = f"set -a; . ./ray.env; set +a; {show}"
    shown = subprocess.run(
        ["sh", "-c", script], cwd=ROOT, env={}, capture_output=True, text=True, check=True
    )
    variables: dict[str, str] = json.loads(shown.stdout)
    assert ray_environment().items() <= variables.items()
