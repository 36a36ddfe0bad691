import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.dimensions import (
    LARGEST,
    Dim,
    ShapeRule,
    accepts,
    parse_dims,
    parse_fixed,
    parse_shape_rule,
    spell,
)

ANY = Dim(0, None)


def fixed(n: int) -> Dim:
    return Dim(n, n)


sizes = st.integers(0, LARGEST)
written_dims = st.one_of(
    st.just(ANY),
    sizes.map(fixed),
    st.tuples(sizes, sizes).filter(lambda ends: ends[0] < ends[1]).map(lambda ends: Dim(*ends)),
)
rules: st.SearchStrategy[ShapeRule] = st.one_of(
    st.just("auto"), st.lists(written_dims, max_size=8).map(tuple)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("(1,3,300,300)", tuple(map(fixed, (1, 3, 300, 300)))),
        ("(-1,3,200:500,0:7)", (ANY, fixed(3), Dim(200, 500), Dim(0, 7))),
        (" ( 1 ,\t-1, 200 : 500 ) ", (fixed(1), ANY, Dim(200, 500))),
        ("(0)", (fixed(0),)),
        ("(007,)", (fixed(7),)),
        ("()", ()),
        (f"({LARGEST})", (fixed(LARGEST),)),
    ],
)
def test_dimensions_are_read_as_openvino_model_server_spells_them(
    text: str, expected: tuple[Dim, ...]
) -> None:
    assert expected == parse_dims(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "'' is not a shape: write 'auto' or '(1,3,300,300)'"),
        ("1,3,300,300", "'1,3,300,300' is not a shape: write 'auto' or '(1,3,300,300)'"),
        ("(1,3", "'(1,3' is not a shape: write 'auto' or '(1,3,300,300)'"),
        ("(", "'(' is not a shape: write 'auto' or '(1,3,300,300)'"),
        ("(1,,3)", "'(1,,3)' has an empty dimension"),
        ("(,)", "'(,)' has an empty dimension"),
        ("(1,-2)", "'(1,-2)' has the dimension '-2', which is not a number, -1 or min:max"),
        ("(1,N)", "'(1,N)' has the dimension 'N', which is not a number, -1 or min:max"),
        ("(1 0)", "'(1 0)' has the dimension '1 0', which is not a number, -1 or min:max"),
        ("(1_0)", "'(1_0)' has the dimension '1_0', which is not a number, -1 or min:max"),
        ("(\u0663)", "'(\u0663)' has the dimension '\u0663', which is not a number"),
        ("(5:)", "'(5:)' has the dimension '5:', which is not a number, -1 or min:max"),
        ("(-1:5)", "'(-1:5)' has the dimension '-1:5', which is not a number"),
        ("((1))", "'((1))' has the dimension '(1)', which is not a number"),
        ("(1:2:3)", "'(1:2:3)' has a range of more than two numbers: '1:2:3'"),
        ("(5:5)", "'(5:5)' has the range 5:5, its end must be above its start"),
        ("(500:200)", "'(500:200)' has the range 500:200, its end must be above its start"),
        (f"({LARGEST + 1})", f"'({LARGEST + 1})' has a dimension above {LARGEST}"),
    ],
)
def test_a_wrong_text_is_refused_with_the_text_and_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match="^" + re.escape(complaint)):
        parse_dims(text)


def test_a_number_too_long_for_python_is_refused_in_our_words() -> None:
    with pytest.raises(ValueError, match=f"has a dimension above {LARGEST}") as error:
        parse_dims("(" + "9" * 10_000 + ")")
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("text", ["auto", " AUTO ", "Auto"])
def test_auto_is_a_rule_that_accepts_every_shape(text: str) -> None:
    rule = parse_shape_rule(text)
    assert rule == "auto"
    assert accepts(rule, ())
    assert accepts(rule, (1, 2, 3))


@given(rules)
def test_a_rule_survives_being_written_and_read(rule: ShapeRule) -> None:
    assert rule == parse_shape_rule(spell(rule))


@given(st.text("0123456789(),:- -1au\t", max_size=30))
def test_any_text_is_read_or_refused_with_a_value_error(text: str) -> None:
    try:
        rule = parse_shape_rule(text)
    except ValueError as error:
        complaint = str(error)
    else:
        complaint = ""
    if complaint:
        assert repr(text) in complaint
    else:
        assert rule == parse_shape_rule(spell(rule))


@given(sizes, sizes, sizes)
def test_a_range_accepts_what_lies_between_its_ends(low: int, high: int, n: int) -> None:
    low, high = sorted((low, high))
    dim = Dim(low, high)
    assert (n in range(low, high + 1)) == dim.accepts(n)
    assert (low if low == high else None) == dim.fixed


@given(sizes)
def test_minus_one_accepts_every_size(n: int) -> None:
    assert ANY.accepts(n)
    assert not ANY.accepts(-1)
    assert ANY.fixed is None


@given(st.lists(written_dims, min_size=1, max_size=6))
def test_dimensions_accept_their_smallest_shape_and_no_other_rank(dims: list[Dim]) -> None:
    smallest = [dim.minimum for dim in dims]
    assert accepts(tuple(dims), smallest)
    assert not accepts(tuple(dims), smallest[1:])
    assert not accepts(tuple(dims), [-1, *smallest[1:]])


@pytest.mark.parametrize(
    ("dim", "expected"),
    [
        (fixed(3), "3"),
        (fixed(0), "0"),
        (ANY, "-1"),
        (Dim(200, 500), "200:500"),
        (Dim(5, None), "5:"),
    ],
)
def test_a_dimension_is_spelled_as_it_is_read(dim: Dim, expected: str) -> None:
    assert expected == str(dim)


@pytest.mark.parametrize(("minimum", "maximum"), [(-1, None), (-1, 5), (3, 2)])
def test_a_dimension_that_no_size_fits_cannot_be_made(minimum: int, maximum: int | None) -> None:
    with pytest.raises(ValueError, match=r"cannot have -1 elements|at least 3 and at most 2"):
        Dim(minimum, maximum)


def test_a_fixed_shape_is_read_as_numbers() -> None:
    assert parse_fixed("(1,3,300,300)") == (1, 3, 300, 300)


@pytest.mark.parametrize(("text", "open_dim"), [("(1,-1)", "-1"), ("(1,2:3)", "2:3")])
def test_a_fixed_shape_with_an_open_dimension_is_refused(text: str, open_dim: str) -> None:
    complaint = f"'{text}' leaves a dimension open ({open_dim}), it must be one shape"
    with pytest.raises(ValueError, match="^" + re.escape(complaint) + "$"):
        parse_fixed(text)


@pytest.mark.parametrize(
    ("dim", "n", "nearest"),
    [(ANY, 2, 2), (Dim(4, 8), 2, 4), (Dim(4, 8), 5, 5), (Dim(0, 1), 2, 1), (Dim(3, None), 1, 3)],
)
def test_the_nearest_size_is_one_that_it_may_have(dim: Dim, n: int, nearest: int) -> None:
    assert nearest == dim.nearest(n)
    assert dim.accepts(nearest)
