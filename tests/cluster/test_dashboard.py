"""The dashboard: its queries name what is declared, and its panels have room."""

import itertools
import json
import re
from typing import Any

import pytest

from cluster.grafana.render import DASHBOARD, concrete, legend, panels
from deployments.observability.metrics import METRICS
from tests.cluster.files import document
from tests.cluster.queries import Named, declared, named, problems

UNITS = {"reqps", "percentunit", "s", "none", "bytes", "ops"}


@pytest.fixture(scope="module")
def dashboard() -> Any:
    return json.loads(DASHBOARD.read_text("utf-8"))


def targets(dashboard: Any) -> list[Any]:
    return [target for panel in panels(dashboard) for target in panel["targets"]]


def test_every_metric_and_label_of_the_queries_is_declared(dashboard: Any) -> None:
    found = [problem for target in targets(dashboard) for problem in problems(target["expr"])]
    assert [] == found


def test_every_declared_metric_is_shown(dashboard: Any) -> None:
    shown = {
        metric
        for target in targets(dashboard)
        for one in named(target["expr"])
        if (metric := declared(one.metric)) is not None
    }
    assert set() == {metric.name for metric in METRICS} - {metric.name for metric in shown}


def test_the_model_variable_asks_for_a_metric_and_a_label_that_are_declared(dashboard: Any) -> None:
    (variable,) = (v for v in dashboard["templating"]["list"] if v["name"] == "model")
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
    assert found is not None
    metric = declared(found[1])
    assert metric is not None
    assert found[2] in metric.labels


def test_the_data_source_is_the_one_that_is_provisioned(dashboard: Any) -> None:
    (variable,) = (v for v in dashboard["templating"]["list"] if v["name"] == "datasource")
    (source,) = document("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert (source["type"], source["uid"]) == (variable["query"], variable["current"]["value"])
    for asked in (*panels(dashboard), *targets(dashboard)):
        assert {"type": "prometheus", "uid": "${datasource}"} == asked["datasource"]


def test_a_legend_names_labels_that_the_query_keeps(dashboard: Any) -> None:
    for target in targets(dashboard):
        wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
        kept = set.intersection(*(set(one.labels) for one in named(target["expr"])))
        assert wanted <= kept | {"instance"}, target["expr"]


def test_every_panel_says_what_it_shows_in_a_unit_that_grafana_knows(dashboard: Any) -> None:
    for panel in panels(dashboard):
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
        references = [target["refId"] for target in panel["targets"]]
        assert len(references) == len(set(references)) > 0
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))


def test_panels_lie_side_by_side(dashboard: Any) -> None:
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)


# What the tests themselves rest on ---------------------------------------------------------------


def test_a_query_is_taken_apart() -> None:
    query = 'sum by (le, model) (rate(ray_a_bucket{x=~"1",y!="2"}[1m])) / sum(ray_b)'
    assert [
        Named("ray_a_bucket", frozenset({"le", "model", "x", "y"})),
        Named("ray_b", frozenset({"le", "model"})),
    ] == named(query)


@pytest.mark.parametrize(
    ("query", "complaint"),
    [
        ("ray_anyshape_reqests_total", "there is no metric ray_anyshape_reqests_total"),
        ("ray_anyshape_requests", "there is no metric ray_anyshape_requests"),
        ("ray_anyshape_queue_seconds", "there is no metric ray_anyshape_queue_seconds"),
        (
            'ray_anyshape_requests_total{modle="a"}',
            "ray_anyshape_requests_total has no label modle",
        ),
        (
            "sum by (le) (ray_anyshape_queue_seconds_sum)",
            "ray_anyshape_queue_seconds_sum has no label le",
        ),
    ],
)
def test_what_is_not_declared_is_found(query: str, complaint: str) -> None:
    assert [complaint] == problems(query)


def test_grafanas_variables_are_filled_in() -> None:
    query = 'rate(ray_a{model=~"$model"}[$__rate_interval])'
    assert 'rate(ray_a{model=~".*"}[30s])' == concrete(query, "30s")
    with pytest.raises(ValueError, match="has an unknown variable"):
        concrete("ray_a[$__range]")


def test_a_legend_is_filled_in() -> None:
    assert "spots p99" == legend("{{model}} p99", {"model": "spots"})
    assert "p99" == legend("{{model}} p99", {})
