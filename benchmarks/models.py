"""The models of the benchmark, each as an IR."""

from pathlib import Path

import numpy as np
import openvino as ov
import openvino.opset15 as op

from benchmarks.workloads import DETECTOR, DETECTOR_U8, LARGE_OUTPUT, TINY
from deployments.model.openvino.spots import spots_model

ROOT = Path(__file__).parents[1]


def default_detector() -> Path | None:
    """The face detector in ../shared, if it is there."""
    found = sorted((ROOT.parent / "shared" / "models" / "face-detection" / "1").glob("*.xml"))
    return found[0] if found else None


def build_models(directory: Path, detector: Path | None) -> dict[str, Path]:
    """All models by name; without a `detector` it is the built-in spots."""
    if detector is None:
        detector = _saved(spots_model(), directory / "spots.xml")
    return {
        DETECTOR: detector.resolve(),
        DETECTOR_U8: _saved(_taking_u8(detector), directory / f"{DETECTOR_U8}.xml"),
        TINY: _saved(_tiny(), directory / f"{TINY}.xml"),
        LARGE_OUTPUT: _saved(_large_output(), directory / f"{LARGE_OUTPUT}.xml"),
    }


def _saved(model: ov.Model, path: Path) -> Path:
    ov.save_model(model, path, compress_to_fp16=False)
    return path


def _taking_u8(detector: Path) -> ov.Model:
    prepared = ov.preprocess.PrePostProcessor(ov.Core().read_model(detector))
    prepared.input().tensor().set_element_type(ov.Type.u8)
    return prepared.build()


def _tiny() -> ov.Model:
    """A model that adds one to [1,10], so that a measurement shows the overhead only."""
    data = op.parameter([1, 10], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    total = op.add(data, op.constant(np.float32(1)))
    total.output(0).set_names({"sum"})
    return ov.Model([op.result(total)], [data], TINY)


def _large_output() -> ov.Model:
    """Like a segmentation: [1,3,256,256] in, a map of [1,1,1024,1024] (4 MB of FP32) out."""
    data = op.parameter([1, 3, 256, 256], ov.Type.f32, name="data")
    data.output(0).set_names({"data"})
    weights = np.random.default_rng(0).standard_normal((1, 3, 3, 3), np.float32)
    mask = op.convolution(data, op.constant(weights), [1, 1], [1, 1], [1, 1], [1, 1])
    scales, axes = np.array([4, 4], np.float32), np.array([2, 3])
    large = op.interpolate(mask, scales, "nearest", "scales", axes=axes)
    large.output(0).set_names({"mask"})
    return ov.Model([op.result(large)], [data], LARGE_OUTPUT)
