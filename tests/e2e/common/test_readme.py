"""The README's commands work against a running server."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.server import ROOT, Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def test_the_commands_run_one_after_the_other(server: Server, tmp_path: Path) -> None:
    """All but `make`, whose targets are what runs this test or serve until Ctrl-C."""
    commands = "".join(blocks("sh"))
    commands = "\n".join(line for line in commands.splitlines() if not line.startswith("make"))
    # The face detector may be missing where the tests run; `spots` has the same contract.
    commands = commands.replace("detect_faces.py --input", "detect_faces.py --model spots --input")
    commands = commands.replace(".venv/bin/python examples/", f"{sys.executable} {ROOT}/examples/")
    commands = commands.replace("detect_faces.py", f"detect_faces.py --url {server.url}")
    commands = commands.replace("localhost:8000", server.url)
    config = server.log.with_name("serve_config.yaml")
    serve = Path(sys.executable).with_name("serve")
    commands = commands.replace(
        ".venv/bin/serve deploy serve_config.yaml",
        f"{serve} deploy --address {server.dashboard} {config}",
    )
    commands = commands.replace("models/face-detection", "models/spots")
    (tmp_path / "photos").mkdir()
    subprocess.run(
        [sys.executable, ROOT / "examples" / "spots_picture.py", tmp_path / "photos" / "a.png"],
        check=True,
    )

    ran = subprocess.run(
        ["bash", "-euxo", "pipefail", "-c", commands],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert 0 == ran.returncode, ran.stderr[-3000:]
    assert "HTTP/1.1 200" in ran.stdout
    assert (tmp_path / "output" / "spots.png").stat().st_size > 0
    assert '"detection_out"' in (tmp_path / "detections.json").read_text()


def test_the_python_example_runs(server: Server, tmp_path: Path) -> None:
    (example,) = blocks("python")
    address = server.url.removeprefix("http://")
    code = example.replace("localhost:8000", address) + "\nprint(detections.shape)"

    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert "(1, 1, 400, 7)" == ran.stdout.strip(), ran.stderr[-3000:]


def test_the_yaml_examples_are_accepted() -> None:
    import yaml

    from deployments.check import problems
    from deployments.settings import changed, settings_from

    examples = [yaml.safe_load(example) for example in blocks("yaml")]
    settings = [settings_from(example) for example in examples if "models" in example]
    models = {model.name: model for one in settings for model in one.models}
    assert ["my-model", "classifier", "stored"] == list(models)
    deployments = [d for example in examples for d in example.get("deployments", [])]
    (change,) = (d for d in deployments if "user_config" in d)
    changed_model = changed(
        models[change["name"]], change["user_config"], settings[0].limits, cached=False
    )
    assert ("(1,3,200:800,200:800)", 4) == (changed_model.shape, changed_model.max_compiled_shapes)
    scaled = [d for d in deployments if "autoscaling_config" in d]
    assert ["Ingress", "face-detection"] == [deployment["name"] for deployment in scaled]
    application = {
        "name": "anyshape",
        "import_path": "deployments.app:build",
        "args": {"models": [{"name": "face-detection", "source": "face-detection"}]},
        "deployments": scaled,
    }
    assert [] == problems({"applications": [application]})
