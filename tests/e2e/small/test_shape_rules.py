"""What a rule accepts is answered as OpenVINO does, bit for bit, and what it does not is refused in
words, without a compile.
"""

import time

import pytest

from tests.e2e.server import Server
from tests.e2e.small.answers import check_same, check_together, sizes
from tests.e2e.small.rules import RULES, request_of
from tests.e2e.wire import FORMS, Refused, asked
from tests.model.loading import assert_same, direct

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def compiles(server: Server, name: str) -> int:
    return int(server.statistics(name)["compiles"])


@pytest.mark.parametrize("name", RULES)
def test_clients_are_told_what_is_open(server: Server, name: str) -> None:
    assert RULES[name].reported == sizes(server, name)


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_accepts_is_answered_as_openvino_does(server: Server, name: str) -> None:
    for shapes in RULES[name].accepted:
        check_same(server, name, RULES[name].model, request_of(shapes))


@pytest.mark.parametrize("name", RULES)
async def test_shapes_that_come_together_answer_as_alone(server: Server, name: str) -> None:
    requests = [request_of(shapes) for shapes in RULES[name].accepted]
    await check_together(server, name, RULES[name].model, requests, times=8)


@pytest.mark.parametrize("name", RULES)
def test_what_a_rule_refuses_is_told_by_input_value_and_rule(server: Server, name: str) -> None:
    before = compiles(server, name)
    for shapes, words in RULES[name].refused:
        refusals = []
        for form in FORMS:
            with pytest.raises(Refused) as refusal:
                asked(server, name, request_of(shapes), form)
            expected = "INVALID_ARGUMENT" if form == "grpc" else 400
            assert expected == refusal.value.status
            refusals.append(refusal.value.words)
        assert 1 == len(set(refusals)), "the protocols say it differently"
        for word in words:
            assert word in refusals[0]
    assert before == compiles(server, name)


def test_a_new_shape_blocks_for_one_compile_whatever_its_rows(server: Server) -> None:
    before = compiles(server, "auto-blocking")
    for rows in (1, 2, 1, 7):
        request = request_of((rows, 3, 20, 21))
        check_same(server, "auto-blocking", RULES["auto-blocking"].model, request)
    assert before + 1 == compiles(server, "auto-blocking")


@pytest.mark.fresh
def test_a_shape_that_comes_often_is_compiled_and_answers_as_before(server: Server) -> None:
    rule, request = RULES["auto"], request_of((1, 3, 22, 23))
    expected, before = direct(rule.model, request), server.statistics("auto")
    deadline = time.monotonic() + 90  # one shape a minute is tried
    while before["compiles"] == compiles(server, "auto"):
        assert time.monotonic() < deadline, "the shape was never compiled"
        assert_same(expected, asked(server, "auto", request, "binary"))
    assert before["served_dynamic"] < server.statistics("auto")["served_dynamic"]
    check_same(server, "auto", rule.model, request)


def test_a_shape_that_was_warmed_up_costs_no_compile(server: Server) -> None:
    before = compiles(server, "ranges")
    check_same(server, "ranges", RULES["ranges"].model, request_of((2, 3, 16, 16)))
    assert before == compiles(server, "ranges")


def test_no_rows_where_they_are_accepted_are_no_rows_back(server: Server) -> None:
    for name in ("auto", "auto-blocking", "open"):
        check_same(server, name, RULES[name].model, request_of((0, 3, 8, 8)))
