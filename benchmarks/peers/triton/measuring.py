"""Measures running arms under each kind of load; an arm is stopped except in its turn."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks import wrk
from benchmarks.measuring import WARM_UP_S, Row
from benchmarks.peers.triton import loads
from benchmarks.peers.triton.arms import STATIC, Arm
from benchmarks.special import AROUND_S, ARRIVING, ARRIVING_DELAY_MS, FEW, MANY, send
from benchmarks.turns import SETTLING_S, OutOfShapes
from benchmarks.workloads import NEW, Workload

PAIRS: Final = 2


@dataclass(frozen=True)
class Span:
    """The seconds of a measurement in a repetition, and the directory of its files."""

    seconds: int
    directory: Path


class Sender:
    """Sends a workload's requests to an arm, and continues where the last call ended."""

    def __init__(self, arm: Arm, workload: Workload, directory: Path) -> None:
        self._arm, self._workload = arm, workload
        self._requests = wrk.written(workload, directory)
        self._sent = 0

    def measured(self, name: str, seconds: int) -> Row:
        """Measures with wrk; returns a row of the workload `name`."""
        cpu = self._arm.target.cpu_seconds()
        outcome = self._run(seconds)
        cpu = self._arm.target.cpu_seconds() - cpu
        return {**_row(self._arm, name, outcome), "cpu_ms_per_request": _each(cpu, outcome)}

    def _run(self, seconds: int) -> wrk.Outcome:
        workload, url = self._workload, self._arm.target.url
        outcome = wrk.run(url, self._requests, workload.clients, seconds, self._sent)
        self._sent += outcome.answers + workload.clients  # includes requests without an answer
        if workload.unseen and self._sent > len(workload.order):
            raise OutOfShapes(workload.name, len(workload.order))
        return outcome


def _each(cpu_seconds: float, outcome: wrk.Outcome) -> float:
    return 1e3 * cpu_seconds / max(1, outcome.answers)


def _row(arm: Arm, name: str, outcome: wrk.Outcome) -> Row:
    """A row of wrk's figures. Without any answer, the latencies are the duration of the run."""
    waited = 0 if outcome.answers else 1e3 * outcome.seconds
    return {
        "workload": name,
        "arm": arm.name,
        "requests_per_s": outcome.per_second,
        "p50_ms": outcome.p50_ms or waited,
        "p99_ms": outcome.p99_ms or waited,
        "max_ms": outcome.max_ms or waited,
        "errors": outcome.refused + outcome.broken,
        "resident_mb": arm.target.resident_bytes() / 1e6,
    }


def signalled(arm: Arm, number: int) -> None:
    for process in arm.target.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def awake(arm: Arm) -> Iterator[None]:
    """Resumes the arm, and stops it again when no request is in flight."""
    signalled(arm, signal.SIGCONT)
    time.sleep(SETTLING_S)
    yield
    arm.wait_until_done()
    signalled(arm, signal.SIGSTOP)


def in_turns(arms: Sequence[Arm], turns: int, taken: Callable[[Arm], Any]) -> Iterator[Row]:
    """Yields the row from `taken` for each arm in each turn; the order of the arms alternates."""
    for turn in range(turns):
        for arm in list(arms)[:: -1 if turn % 2 else 1]:
            with awake(arm):
                rows = list(taken(arm))
            yield from ({**row, "turn": turn} for row in rows)


def steady(arms: Sequence[Arm], workload: Workload, span: Span) -> Iterator[Row]:
    """Measures a workload in turns, after a warm-up unless the shapes must be new."""
    senders = {arm.name: Sender(arm, workload, span.directory) for arm in arms}
    if not workload.unseen:
        for arm in arms:
            with awake(arm):
                senders[arm.name].measured(workload.name, WARM_UP_S)
    turn_s = min(workload.turn_s, span.seconds)
    yield from in_turns(
        arms,
        max(1, span.seconds // turn_s),
        lambda arm: [senders[arm.name].measured(workload.name, turn_s)],
    )


def zipf(arms: Sequence[Arm], span: Span) -> Iterator[Row]:
    """Measures the first seconds on servers without any of the shapes, then more turns."""
    first, later = loads.ZIPF_FIRST, loads.ZIPF_LATER
    senders = {arm.name: Sender(arm, first, span.directory) for arm in arms}
    yield from in_turns(
        arms, 1, lambda arm: [senders[arm.name].measured(first.name, loads.FIRST_S)]
    )
    turn_s = min(later.turn_s, span.seconds)
    yield from in_turns(
        arms,
        max(1, span.seconds // turn_s),
        lambda arm: [senders[arm.name].measured(later.name, turn_s)],
    )


class Arriving:
    """Sends shapes to an arm twenty times a second, from twenty connections."""

    def __init__(self, arm: Arm, workload: Workload, directory: Path) -> None:
        self._url, self._clients = arm.target.url, workload.clients
        self._requests = wrk.written(workload, directory)
        self._sent = 0

    def around(self, seconds: int, taken: Callable[[], Row]) -> tuple[Row, wrk.Outcome]:
        """Calls `taken`, which takes `seconds`, while shapes arrive at a steady rate."""
        arriving = wrk.start(
            self._url,
            self._requests,
            self._clients,
            seconds + 2 * AROUND_S,
            self._sent,
            ARRIVING_DELAY_MS,
        )
        time.sleep(AROUND_S)
        row = taken()
        outcome = wrk.finish(arriving)
        self._sent += outcome.answers + 2 * self._clients  # includes requests without an answer
        return row, outcome


def known_shape(arms: Sequence[Arm], span: Span) -> Iterator[Row]:
    """Measures a known shape alone, with new shapes, and for ours with promoted shapes."""
    known = {arm.name: Sender(arm, loads.KNOWN_ALONE, span.directory) for arm in arms}
    new = {arm.name: Arriving(arm, ARRIVING, span.directory) for arm in arms}
    promoted = {arm.name: Arriving(arm, loads.PROMOTED, span.directory) for arm in arms}

    def taken(arm: Arm) -> Iterator[Row]:
        yield known[arm.name].measured(loads.KNOWN_ALONE.name, span.seconds)
        yield _beside(arm, loads.KNOWN_BESIDE_NEW, known, new, span.seconds)
        if arm.is_ours:
            before = arm.target.counters()["compiles"]
            row = _beside(arm, loads.KNOWN_BESIDE_PROMOTED, known, promoted, span.seconds)
            yield {**row, "promotions": arm.target.counters()["compiles"] - before}

    for arm in arms:
        with awake(arm):
            known[arm.name].measured(loads.KNOWN_ALONE.name, WARM_UP_S)
    yield from in_turns(arms, PAIRS, taken)


def _beside(
    arm: Arm,
    workload: Workload,
    known: dict[str, Sender],
    others: dict[str, Arriving],
    seconds: int,
) -> Row:
    """The known shape's row, with the errors and the rate of the other shapes."""
    sender = known[arm.name]
    row, arrived = others[arm.name].around(seconds, lambda: sender.measured(workload.name, seconds))
    errors = row["errors"] + arrived.refused + arrived.broken
    return {**row, "errors": errors, "beside_per_s": arrived.per_second}


def memory(arms: Sequence[Arm], span: Span) -> Iterator[Row]:
    """Measures the memory of all processes of an arm.

    An arm that keeps a compilation for each shape gets the first shapes only: all would take some
    twenty gigabytes.
    """

    def taken(arm: Arm) -> Iterator[Row]:
        send(arm.target.url, NEW[:FEW])
        yield _resident(arm, loads.MEMORY_FEW.name)
        if arm.name != STATIC:
            send(arm.target.url, NEW[FEW:MANY])
            yield _resident(arm, loads.MEMORY_MANY.name)

    yield from in_turns(arms, 1, taken)


def _resident(arm: Arm, name: str) -> Row:
    megabytes = arm.target.resident_bytes() / 1e6
    return {"workload": name, "arm": arm.name, "errors": 0, "resident_mb": megabytes}
