import pytest

from benchmarks.compiling import PRECISION, precision, properties
from benchmarks.machine import machine


def test_openvino_chooses_the_precision_unless_one_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(PRECISION, raising=False)
    assert {} == precision()
    assert {"PERFORMANCE_HINT": "THROUGHPUT"} == properties()
    assert machine()["precision"] in ("f32", "bf16", "f16")

    monkeypatch.setenv(PRECISION, "f32")
    expected = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32"}
    assert expected == properties()
    assert "f32" == machine()["precision"]
