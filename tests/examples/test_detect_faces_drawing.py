"""The boxes and labels that the face client draws."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from examples.detect_faces import COLOUR, Image, draw_boxes, label_patch
from tests.examples.scenes import scene


class TestDrawBoxes:
    def test_draws_the_box_where_it_is(self) -> None:
        image = scene(401, 201)
        drawn = draw_boxes(image, [(0.9, 0.25, 0.5, 0.75, 0.9)])
        # (y, x) of the middle of the right and lower edges, then the inside
        assert tuple(drawn[150, 300]) == COLOUR
        assert tuple(drawn[180, 250]) == COLOUR
        assert (drawn[105:175, 105:295] == image[105:175, 105:295]).all()

    def test_labels_above_the_box(self) -> None:
        image = scene(400, 400)
        drawn = draw_boxes(image, [(0.9, 0.5, 0.5, 0.75, 0.75)])
        patch = label_patch("0.90", 400, 400)
        height, width = patch.shape[:2]
        assert (drawn[200 - height : 200, 200 : 200 + width] == patch).all()

    def test_leaves_the_original_alone(self) -> None:
        image = scene(100, 100)
        draw_boxes(image, [(0.9, 0, 0, 1, 1)])
        assert (image == scene(100, 100)).all()

    def test_changes_nothing_without_detections(self) -> None:
        assert (draw_boxes(scene(30, 20), []) == scene(30, 20)).all()

    def test_lines_and_text_grow_with_the_picture(self) -> None:
        def green(image: Image) -> int:
            return int((draw_boxes(image, [(0.9, 0.2, 0.5, 0.8, 0.8)]) == COLOUR).all(2).sum())

        def text_height(side: int) -> int:
            return len(label_patch("0.90", side, side))

        assert 4 * text_height(500) > text_height(2000) > 2 * text_height(500)
        assert green(scene(2000, 2000)) > 8 * green(scene(500, 500))

    @given(
        width=st.integers(1, 90),
        height=st.integers(1, 90),
        box=st.tuples(*[st.floats(-0.5, 1.5)] * 4),
    )
    def test_keeps_the_text_inside_whatever_the_box(
        self, width: int, height: int, box: tuple[float, float, float, float]
    ) -> None:
        image = scene(width, height)
        drawn = draw_boxes(image, [(0.5, *box)])
        assert drawn.shape == image.shape
        patch = label_patch("0.50", height, width)
        windows = np.lib.stride_tricks.sliding_window_view(drawn, patch.shape)
        assert (windows == patch).all(axis=(-1, -2, -3)).any()
