"""What the face client reads of a detector's description and of its answers."""

import numpy as np
import pytest

from examples.detect_faces import ClientError, detector_ports, parse_detections
from tests.examples.detector_server import METADATA, detections


class TestDetectorPorts:
    def test_finds_the_image_input_and_the_rows_of_seven(self) -> None:
        assert detector_ports(METADATA) == ["pixels", "boxes"]

    @pytest.mark.parametrize("kind", ["inputs", "outputs"])
    def test_refuses_a_model_that_is_no_detector(self, kind: str) -> None:
        other = {**METADATA, kind: [{"name": "x", "datatype": "FP32", "shape": [1, 1000]}]}
        with pytest.raises(ClientError, match="finder is no detector"):
            detector_ports(other)


class TestParseDetections:
    def test_ends_at_the_first_unused_row(self) -> None:
        output = detections([0, 1, 0.75, 0.1, 0.2, 0.3, 0.4])
        (found,) = parse_detections(output, 1, 0.5)
        assert found == [pytest.approx((0.75, 0.1, 0.2, 0.3, 0.4))]

    def test_sorts_rows_by_picture_and_keeps_those_without(self) -> None:
        output = detections([2, 1, 0.75, 0, 0, 1, 1], [0, 1, 0.5, 0, 0, 1, 1])
        assert parse_detections(output, 3, 0.5) == [[(0.5, 0, 0, 1, 1)], [], [(0.75, 0, 0, 1, 1)]]

    def test_leaves_out_what_is_below_the_threshold(self) -> None:
        output = detections([0, 1, 0.25, 0, 0, 1, 1], [0, 1, 0.75, 0, 0, 1, 1])
        assert parse_detections(output, 1, 0.5) == [[(0.75, 0, 0, 1, 1)]]

    def test_takes_an_output_that_is_full_to_its_last_row(self) -> None:
        output = np.array([[[[0, 1, 0.75, 0, 0, 1, 1]] * 200]], np.float32)
        assert [len(found) for found in parse_detections(output, 1, 0.5)] == [200]

    def test_refuses_a_picture_that_was_not_sent(self) -> None:
        with pytest.raises(ValueError, match="picture 2 of a batch of 2"):
            parse_detections(detections([2, 1, 0.75, 0, 0, 1, 1]), 2, 0.5)

    def test_refuses_rows_of_another_length(self) -> None:
        with pytest.raises(ValueError, match="reshape"):
            parse_detections(np.zeros((1, 1, 5, 6), np.float32), 1, 0.5)
