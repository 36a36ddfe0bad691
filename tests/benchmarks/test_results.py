"""Repetitions become medians, medians a table, and the table the README's block."""

from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks.measuring import Row
from benchmarks.report import README, write_block, write_readme
from benchmarks.results import summary, table
from benchmarks.workloads import ANYSHAPE, BARE, ONE_SHAPE, WORKLOADS


def row(arm: str, rate: float, **more: float) -> Row:
    return {"workload": ONE_SHAPE.name, "arm": arm, "requests_per_s": rate, "errors": 1, **more}


def test_a_summary_has_medians_the_spread_and_all_errors() -> None:
    rows = [row(ANYSHAPE, rate, p50_ms=1.0) for rate in (90.0, 140.0, 100.0, 80.0, 110.0)]

    (result,) = summary(rows)

    assert 100.0 == result["requests_per_s"]
    assert 0.2 == result["spread"], "from 90 to 110 are half of them"
    assert 5 == result["errors"]
    assert 1.0 == result["p50_ms"]


def test_results_come_in_the_order_of_workloads_and_arms() -> None:
    last = {**row(BARE, 1.0), "workload": WORKLOADS[-1].name}

    results = summary([last, row(ANYSHAPE, 1.0), row(BARE, 1.0)])

    assert [
        (ONE_SHAPE.name, BARE),
        (ONE_SHAPE.name, ANYSHAPE),
        (WORKLOADS[-1].name, BARE),
    ] == [(result["workload"], result["arm"]) for result in results]


def test_what_an_arm_does_not_count_is_blank() -> None:
    lines = table(summary([row(BARE, 100.0, resident_mb=144.2)])).splitlines()

    assert 3 == len(lines)
    assert f"| {ONE_SHAPE.name} | bare | 100.0 | 0% |  |  |  |  |  |  | 144 | 1 |" == lines[2]


def test_the_readme_s_block_is_replaced_and_the_rest_stays(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results -->\nold\n<!-- /results -->\nafter\n")
    machine = {"cpu": "c", "cores": 2, "memory_gb": 8, "kernel": "k"}
    versions = {"python": "3", "openvino": "o", "ray": "r", "precision": "f32"}
    run = {
        "machine": {**machine, **versions},
        "detector": "spots",
        "seconds": 8,
        "repetitions_done": 1,
        "results": summary([row(BARE, 100.0)]),
        "repetitions": [{**row(BARE, 100.0), "repetition": 1, "turn": 0}],
        "special": [],
    }

    write_readme(run, readme=readme)
    write_readme(run, readme=readme)

    text = readme.read_text()
    assert text.startswith("before\n<!-- results -->\nc, 2 cores")
    assert text.endswith("\n<!-- /results -->\nafter\n")
    assert "old" not in text
    assert 1 == text.count("| one shape, 16 clients | bare |")


def test_blocks_of_different_names_stand_in_one_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(
        "<!-- results -->\n1\n<!-- /results -->\n<!-- results f32 -->\n2\n<!-- /results f32 -->"
    )
    with patch("benchmarks.report.report", lambda run: f"new {run['n']}"):
        write_readme({"n": 2}, "results f32", readme)
        assert "1\n<!-- /results -->\n<!-- results f32 -->\nnew 2\n" in readme.read_text()
        write_readme({"n": 1}, readme=readme)
    assert "new 1\n<!-- /results -->\n<!-- results f32 -->\nnew 2\n" in readme.read_text()


def test_a_readme_without_the_block_is_not_touched(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("nothing")

    with pytest.raises(ValueError, match="block"):
        write_block("new", "results", readme)

    assert "nothing" == readme.read_text()


def test_the_benchmark_s_readme_has_the_block() -> None:
    assert 1 == README.read_text().count("<!-- results -->")
    assert 1 == README.read_text().count("<!-- /results -->")
