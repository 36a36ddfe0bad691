"""The built-in model `spots`, which finds bright round spots and needs no download.

Its weights are computed, and its contract is that of face-detection-retail-0004, so that it can
replace a real detector in demos and tests: the same input and output, prior boxes computed inside
the graph from the shapes there, and a `DetectionOutput` at the end.

How it works: a pyramid of grey pictures, each half the size of the one before. At every pixel of
every level, windows of a few sizes are compared with a bright disc that fills half the window's
area. The comparison is a normalised correlation, so it is 1 for a perfect spot however bright it
is, and 0 for an edge or a gradient. The same windows compared with horizontal and vertical ramps
tell how far off the centre the spot is.
"""

import math

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset8 as ops

LEVELS = 4
KERNEL = 11  # pixels of a level, across; the largest window just fits
RADII = tuple(KERNEL / math.sqrt(8.0) * 2.0 ** (step / 3.0) for step in (-2, -1, 0))
PRIOR_RADIUS = 3.0  # a round number, which survives being saved as text

NOISE = 12.0 / 255.0  # keeps a window whose contrast is below this from matching anything
THRESHOLD = 0.49  # the correlation that is worth a confidence of one half
STEEPNESS = 36.0

# Radius between the radii: fitted to drawn discs of every size, a few percent off at most places.
SHARPNESS, SPREAD, BIAS = 12.0, 1.4, -0.05

VARIANCE = (0.1, 0.1, 0.2, 0.2)
DETECTION = {
    "background_label_id": 0,
    "top_k": 2000,  # before suppression, which leaves about one in ten
    "keep_top_k": [200],
    "code_type": "caffe.PriorBoxParameter.CENTER_SIZE",
    "share_location": True,
    "nms_threshold": 0.3,
    "confidence_threshold": 0.01,
    "normalized": True,
}


def spots_model() -> ov.Model:
    """Builds the detector.

    Input `data`: f32 [N,3,H,W], BGR, 0..255; any N, H and W, fixed or dynamic, after a reshape.
    Output `detection_out`: f32 [1,1,200*N,7], rows of image_id, label (1), confidence, x_min,
    y_min, x_max, y_max relative to the picture; the first unused row starts with -1.
    """
    data = ops.parameter([1, 3, 300, 300], np.float32, name="data")
    data.set_layout(ov.Layout("[N,C,H,W]"))
    data.output(0).set_names({"data"})
    levels = [_first_level(data)]
    while len(levels) < LEVELS:
        levels.append(_halve(levels[-1]))
    locations, confidences, priors = [], [], []
    for power, level in enumerate(levels, start=1):
        match, right, down = _correlations(level)
        locations.append(_location(match, right, down))
        confidences.append(_confidence(match))
        priors.append(_prior_boxes(level, data, pixel=2.0**power))
    found = ops.detection_output(
        ops.concat(locations, axis=1),
        ops.concat(confidences, axis=1),
        ops.concat(priors, axis=2),
        DETECTION,
        name="detection_out",
    )
    found.output(0).set_names({"detection_out"})
    return ov.Model([ops.result(found)], [data], "spots")


def _first_level(data: ov.Node) -> ov.Node:
    """Turns [N,3,H,W] in 0..255 into [N,2,H/2,W/2]: grey in 0..1, and its square."""
    average = np.full((1, 3, 1, 1), 1.0 / (3.0 * 255.0), np.float32)  # fixes the channels to 3
    grey = ops.convolution(data, average, [1, 1], [0, 0], [0, 0], [1, 1])
    half = _halve(grey)
    return ops.concat([half, ops.multiply(half, half)], axis=1)


def _halve(level: ov.Node) -> ov.Node:
    return ops.avg_pool(level, [2, 2], [0, 0], [0, 0], [2, 2], True, "ceil")


def _correlations(level: ov.Node) -> list[ov.Node]:
    """Correlates the windows around each pixel with a disc and two ramps: 3 times [N,radii,H*W].

    Where the disc matches, the ramps' correlations are the spot's offset to the right and down,
    in pixels of the level.
    """
    border = [0, 0, KERNEL // 2, KERNEL // 2]
    padded = ops.pad(level, border, border, "edge")
    windows = ops.convolution(padded, _filters(), [1, 1], [0, 0], [0, 0], [1, 1])
    flat = ops.reshape(windows, [0, 5 * len(RADII), -1], special_zero=True)
    disc, right, down, mean, mean_square = ops.split(flat, 1, 5).outputs()
    variance = ops.relu(ops.subtract(mean_square, ops.multiply(mean, mean)))
    deviation = ops.sqrt(ops.add(variance, np.float32(NOISE**2)))
    return [ops.divide(pattern, deviation) for pattern in (disc, right, down)]


def _location(match: ov.Node, right: ov.Node, down: ov.Node) -> ov.Node:
    """Blends the radii by how well they match into regressions of the prior boxes, [N,H*W*4]."""
    blend = ops.softmax(ops.multiply(match, np.float32(SHARPNESS)), 1)
    shift = np.float32(1.0 / (2.0 * PRIOR_RADIUS * VARIANCE[0]))
    growth = (SPREAD * np.log(np.array(RADII) / PRIOR_RADIUS) + BIAS) / VARIANCE[2]
    terms = [
        ops.multiply(right, shift),
        ops.multiply(down, shift),
        growth.astype(np.float32)[np.newaxis, :, np.newaxis],
    ]
    x, y, size = (ops.reduce_sum(ops.multiply(blend, term), [1], keep_dims=True) for term in terms)
    return _flat(ops.concat([x, y, size, size], axis=1))


def _confidence(match: ov.Node) -> ov.Node:
    """Turn the match of the best radius into confidences of background and spot, [N,H*W*2]."""
    excess = ops.subtract(ops.reduce_max(match, [1], keep_dims=True), np.float32(THRESHOLD))
    spot = ops.sigmoid(ops.multiply(excess, np.float32(STEEPNESS)))
    return _flat(ops.concat([ops.subtract(np.float32(1.0), spot), spot], axis=1))


def _prior_boxes(level: ov.Node, data: ov.Node, pixel: float) -> ov.Node:
    """One square around each pixel of the level, relative to the picture's size: [1,2,H*W*4]."""
    squares = {
        "width": [2.0 * PRIOR_RADIUS * pixel],
        "height": [2.0 * PRIOR_RADIUS * pixel],
        "clip": False,
        "step": pixel,
        "offset": 0.5,
        "variance": list(VARIANCE),
    }
    boxes = ops.prior_box_clustered(_height_width(level), _height_width(data), squares)
    return ops.unsqueeze(boxes, 0)


def _flat(values: ov.Node) -> ov.Node:
    """Turns [N,C,H*W] into [N,H*W*C], the order of the prior boxes."""
    return ops.reshape(ops.transpose(values, [0, 2, 1]), [0, -1], special_zero=True)


def _height_width(node: ov.Node) -> ov.Node:
    return ops.strided_slice(ops.shape_of(node), [2], [4], [1], [0], [0])


def _filters() -> NDArray[np.float32]:
    """The five filters of `_correlations` per radius, over grey and its square."""
    discs = np.stack([_disc(radius) for radius in RADII])
    windows = np.stack([_disc(radius * math.sqrt(2.0)) for radius in RADII])
    across = np.arange(KERNEL) - KERNEL // 2
    filters = np.zeros((5, len(RADII), 2, KERNEL, KERNEL), np.float32)
    filters[0, :, 0] = discs - windows
    filters[1, :, 0] = windows * across
    filters[2, :, 0] = windows * across[:, np.newaxis]
    filters[3, :, 0] = filters[4, :, 1] = windows
    return filters.reshape(-1, 2, KERNEL, KERNEL)


def _disc(radius: float) -> NDArray[np.float64]:
    """The mean over a disc, as a filter: each pixel weighs by how much of it is covered."""
    fine = 16
    at = (np.arange(KERNEL * fine) + 0.5) / fine - KERNEL / 2.0
    inside = np.hypot(at, at[:, np.newaxis]) <= radius
    cover = inside.reshape(KERNEL, fine, KERNEL, fine).mean(axis=(1, 3))
    return np.asarray(cover / cover.sum())
