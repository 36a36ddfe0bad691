"""`make bench-answers`: checks that answers stay correct when shapes get static compilations.

16 clients send requests of many shapes to real models, 30 of each shape. Every fourth shape has a
static compilation from the start (`warm_up`), others may get one. Every answer is compared with
OpenVINO's own, of one compilation for all shapes. OpenVINO 2026.4.1 compiles the recogniser of
PP-OCRv4 wrongly for some widths, such as 64: such a shape is *differing*.
"""

import argparse
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import openvino as ov

from benchmarks.arms import serving
from benchmarks.models import build_models, default_detector
from benchmarks.peers.wire import Tensor
from benchmarks.shapes import Shape
from benchmarks.workloads import DETECTOR, NEW
from tests.e2e.client import binary_request, read_outputs
from tests.e2e.server import running

CLIENTS: Final = 16
PASSES: Final = 3
IN_A_PASS: Final = 10
COMPILED_EVERY: Final = 4
TOLERANCE: Final = 1e-4
"""The allowed difference in float32, relative to the largest value of an answer."""
F32: Final = {"INFERENCE_PRECISION_HINT": "f32"}
SETTINGS: Final[dict[str, Any]] = {
    "plugin_config": F32,
    "max_compiled_shapes": 64,
    "compiles_per_minute": 600,
    "batching": {"stacking": "never"},  # one row then has a static compilation
}
WHEEL: Final = "rapidocr-onnxruntime==1.4.4"
RECOGNISER: Final = "ch_PP-OCRv4_rec_infer.onnx"
WIDTHS: Final = tuple((1, 3, 48, width) for width in range(16, 816, 4))


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-answers", description=__doc__)
    parser.add_argument(
        "--shapes", type=int, default=len(WIDTHS), help="shapes of each model (%(default)s)"
    )
    shapes = parser.parse_args().shapes
    print("| model | shapes | requests | wrong | largest difference | compilations | differing |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    wrong = 0
    with tempfile.TemporaryDirectory() as temporary:
        directory = Path(temporary)
        detector = build_models(directory, default_detector())[DETECTOR]
        models = {"recogniser": (recogniser(directory), WIDTHS), "detector": (detector, NEW)}
        for name, (path, all_shapes) in models.items():
            found, statistics = sent(name, path, all_shapes[:shapes], directory)
            of_these = sum(difference > TOLERANCE for difference in found)
            wrong += of_these
            cells = [name, min(shapes, len(all_shapes)), len(found), of_these]
            cells += [f"{max(found):.1e}", statistics["compiles"]]
            print("|", " | ".join(map(str, [*cells, statistics["shapes_differing"]])), "|")
    if wrong:
        sys.exit(f"{wrong} answers are wrong")


def recogniser(directory: Path) -> Path:
    """Downloads the wheel that contains the recogniser, and extracts the model."""
    command = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", WHEEL]
    subprocess.run([*command, "--dest", str(directory)], check=True)
    (wheel,) = directory.glob("rapidocr*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(RECOGNISER))
        return Path(archive.extract(member, directory))


def sent(
    name: str, path: Path, shapes: Sequence[Shape], directory: Path
) -> tuple[list[float], dict[str, Any]]:
    """Starts a server for the model and sends requests of all shapes in the order of `order`.

    Returns the difference of each answer, and the server's statistics.
    """
    expected = answers(path, shapes)
    own = [f"({','.join(map(str, shape))})" for shape in shapes[::COMPILED_EVERY]]
    config = serving(name, path, **SETTINGS, warm_up=own)
    with running(config, directory) as server:
        target = f"{server.url}/v2/models/{name}/infer"
        port = httpx.get(target.removesuffix("/infer")).json()["inputs"][0]["name"]
        with httpx.Client(timeout=60) as http, ThreadPoolExecutor(CLIENTS) as clients:
            found = clients.map(
                lambda shape: difference(http, target, port, shape, expected[shape]), order(shapes)
            )
            return list(found), server.statistics(name)


def order(shapes: Sequence[Shape]) -> Iterator[Shape]:
    for _ in range(PASSES):
        for shape in shapes:
            yield from [shape] * IN_A_PASS


def tensor(shape: Shape) -> Tensor:
    return np.random.default_rng(sum(shape)).random(shape, np.float32)


def answers(path: Path, shapes: Sequence[Shape]) -> dict[Shape, Tensor]:
    core = ov.Core()
    model = core.read_model(path)
    channels = shapes[0][1]
    height = -1 if len({shape[2] for shape in shapes}) > 1 else shapes[0][2]
    model.reshape([-1, channels, height, -1])
    compiled = core.compile_model(model, "CPU", F32)
    return {shape: np.array(compiled([tensor(shape)])[0]).ravel() for shape in shapes}


def difference(http: httpx.Client, target: str, port: str, shape: Shape, expected: Tensor) -> float:
    """The largest difference, relative to the largest value.

    It is infinite if the answer is an error or has another size.
    """
    content, headers = binary_request({port: tensor(shape)})
    reply = http.post(target, content=content, headers=headers)
    if reply.status_code != 200:
        return float("inf")
    given = next(iter(read_outputs(reply).values())).ravel()
    if given.shape != expected.shape:
        return float("inf")
    return float(abs(given - expected).max() / abs(expected).max())


if __name__ == "__main__":
    main()
