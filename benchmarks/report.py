"""The report on a run in Markdown: the machine, the table and the verdicts, also in the README."""

import re
from pathlib import Path
from typing import Any, Final

from benchmarks.measuring import Row
from benchmarks.results import table
from benchmarks.verdict import verdicts

README: Final = Path(__file__).with_name("README.md")
BLOCK: Final = r"(<!-- {name} -->\n).*?(<!-- /{name} -->)"


def report(run: dict[str, Any]) -> str:
    """The report on a run in Markdown."""
    parts = [described(run), table(run["results"])]
    if run["special"]:
        parts.append("\n".join(map(_special, run["special"])))
    parts.append(verdicts(run["repetitions"], run["special"]))
    return "\n\n".join(parts)


def write_readme(run: dict[str, Any], name: str = "results", readme: Path = README) -> None:
    """Replaces the text between the README's marks of that name by the report."""
    write_block(report(run), name, readme)


def write_block(content: str, name: str, readme: Path = README) -> None:
    block = re.compile(BLOCK.format(name=re.escape(name)), re.S)
    text, found = block.subn(lambda marks: f"{marks[1]}{content}\n{marks[2]}", readme.read_text())
    if not found:
        raise ValueError(f"{readme.name} has no <!-- {name} --> block")
    readme.write_text(text)


def described(run: dict[str, Any]) -> str:
    m = run["machine"]
    return (
        f"{m['cpu']}, {m['cores']} cores, {m['memory_gb']} GB, {m['kernel']}; Python "
        f"{m['python']}, OpenVINO {m['openvino']}, Ray {m['ray']}. Detector: {run['detector']}, "
        f"in {m['precision']}. "
        f"{run['seconds']} s for each arm and workload in each of {run['repetitions_done']} "
        "repetitions, in turns; the table has medians of the turns, all errors, and as spread the "
        "distance of the throughput's quartiles against its median."
    )


def _special(row: Row) -> str:
    numbers = [
        f"{key} {value:.1f}" for key, value in row.items() if key not in ("measurement", "ratio")
    ]
    return f"- {row['measurement']}: **{row['ratio']:.2f}** ({', '.join(numbers)})"
