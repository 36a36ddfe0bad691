import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.layouts import LETTERS, Layout, batch_axis, named, parse_layout_rule

NCHW = Layout(("N", "C", "H", "W"))


@pytest.mark.parametrize(
    ("text", "target", "source", "transposes"),
    [
        ("NHWC:NCHW", "NHWC", "NCHW", True),
        ("HWN:NHW", "HWN", "NHW", True),
        ("CN:NC", "CN", "NC", True),
        ("NCHW:NCHW", "NCHW", "NCHW", False),
        ("CN", "CN", "CN", False),
        ("N...", "N...", "N...", False),
        ("N?HWC", "N?HWC", "N?HWC", False),
        ("N...:N...", "N...", "N...", False),
        (" nhwc : nchw ", "NHWC", "NCHW", True),
        ("NCDHW", "NCDHW", "NCDHW", False),
        ("??", "??", "??", False),
    ],
)
def test_a_rule_is_a_target_and_a_source(
    text: str, target: str, source: str, transposes: bool
) -> None:
    rule = parse_layout_rule(text)
    assert (target, source, transposes) == (str(rule.target), str(rule.source), rule.transposes)


@given(st.permutations(LETTERS), st.integers(1, len(LETTERS)))
def test_any_order_of_the_dimensions_can_become_any_other(letters: list[str], count: int) -> None:
    target = letters[:count]
    source = sorted(target)
    rule = parse_layout_rule(f"{''.join(target)}:{''.join(source)}")
    assert (tuple(target), tuple(source)) == (rule.target.names, rule.source.names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "'' has an empty layout"),
        ("NHWC:", "'NHWC:' has an empty layout"),
        ("N:C:N", "'N:C:N' has more than a target and a source layout"),
        ("NHWX", "'NHWX' has the dimension 'X', known are N, C, H, W, D, '?' and '...'"),
        ("N..", "'N..' has the dimension '.', known are N, C, H, W, D, '?' and '...'"),
        ("NCN", "'NCN' has N twice in one layout"),
        ("......N", "'......N' has ... twice in one layout"),
        (
            "NHWC:NCH",
            (
                "'NHWC:NCH' has NHWC before the colon and NCH after it, "
                "which do not have the same dimensions"
            ),
        ),
        (
            "NHWC:NCHD",
            (
                "'NHWC:NCHD' has NHWC before the colon and NCHD after it, "
                "which do not have the same dimensions"
            ),
        ),
        ("N...:...N", "'N...:...N' must name every dimension, because it transposes"),
        ("N?C:NC?", "'N?C:NC?' must name every dimension, because it transposes"),
        ("N" * 90, f"'{'N' * 77}...' has N twice in one layout"),
    ],
)
def test_invalid_layouts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(reason)}$"):
        parse_layout_rule(text)


@given(st.text("NCHWD?.: nx", max_size=12))
def test_a_layout_reads_back_as_it_is_written(text: str) -> None:
    try:
        rule = parse_layout_rule(text)
    except ValueError:
        return
    assert rule == parse_layout_rule(f"{rule.target}:{rule.source}")


@pytest.mark.parametrize(
    ("layout", "name", "rank", "axis"),
    [
        ("NCHW", "N", 4, 0),
        ("NCHW", "W", 4, 3),
        ("NCHW", "D", 4, None),
        ("NCHW", "N", 3, None),
        ("CN", "N", 2, 1),
        ("N...C", "C", 2, 1),
        ("N...C", "C", 5, 4),
        ("N...C", "C", 1, None),
        ("...HWC", "H", 3, 0),
        ("...HWC", "H", 5, 2),
        ("?N", "N", 2, 1),
    ],
)
def test_a_dimension_is_found_by_its_name(
    layout: str, name: str, rank: int, axis: int | None
) -> None:
    assert axis == parse_layout_rule(layout).target.axis(name, rank)


@pytest.mark.parametrize(
    ("layout", "rank", "axis"),
    [(None, 4, 0), (None, 1, 0), (None, 0, None), (NCHW, 4, 0), (Layout(("C", "N")), 2, 1)],
)
def test_the_batch_is_n_or_without_a_layout_the_first_dimension(
    layout: Layout | None, rank: int, axis: int | None
) -> None:
    assert axis == batch_axis(layout, rank)


def test_a_layout_without_n_has_no_batch() -> None:
    assert batch_axis(Layout(("C", "H", "W")), 3) is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[N,C,H,W]", "NCHW"),
        ("[N,...]", "N..."),
        ("[N,time,C]", "[N,time,C]"),
        ("[...]", None),
        ("[?,?]", None),
        ("[]", None),
        ("", None),
    ],
)
def test_what_openvino_writes_is_read(text: str, expected: str | None) -> None:
    layout = named(text)
    assert expected == (None if layout is None else str(layout))
