"""The lines that the face client prints of its requests."""

from examples.detect_faces import Answer, percentile_line
from tests.examples.scenes import picture


def test_percentile_line() -> None:
    expected = "latency ms: mean 50.0  p50 50.0  p90 90.0  p95 95.0  p99 99.0"
    assert percentile_line([float(ms) for ms in range(101)]) == expected


def test_a_request_line_names_files_shape_time_and_boxes() -> None:
    batch = [picture("a.png", 30, 20), picture("b.png", 30, 20)]
    answer = Answer(batch, [[(0.9, 0, 0, 1, 1)], [(0.8, 0, 0, 1, 1)] * 2], 12.34)
    assert answer.line() == "a.png b.png  [2, 3, 20, 30]  12.3 ms  3 boxes"
