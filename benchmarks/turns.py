"""Runs all arms at once and measures them in turns of seconds, while the others are stopped.

A shared machine changes its speed within seconds. So arms have to be compared within seconds, and
those that are not measured must not use the processor meanwhile.
"""

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from benchmarks.arms import SERVING, Target
from benchmarks.measuring import WARM_UP_S, Plan, Row, measured, wait_until_quiet
from benchmarks.models import ROOT
from benchmarks.workloads import BARE, Workload

SETTLING_S: Final = 0.2
TURNS_AT_LEAST: Final = 2


class OutOfShapes(Exception):
    """Raised when a workload has fewer unseen shapes than an arm answers requests."""

    def __init__(self, workload: str, shapes: int) -> None:
        super().__init__(f"{workload}: {shapes} shapes do not suffice; choose fewer --seconds")


class Runner(Protocol):
    """An arm that runs a workload in turns."""

    def turn(self, seconds: int) -> Row: ...


@dataclass
class Server:
    """An arm that is a server, stopped except in its turn."""

    target: Target
    workload: Workload
    directory: Path
    _sent: int = 0

    def warm_up(self) -> None:
        with awake(self.target):
            self._measured(WARM_UP_S)

    def turn(self, seconds: int) -> Row:
        with awake(self.target):
            return self._measured(seconds)

    def _measured(self, seconds: int) -> Row:
        """Measures, from the request in the workload's order at which the last turn ended."""
        row, answers = measured(self.target, self.workload, seconds, self.directory, self._sent)
        self._sent += answers + self.workload.clients  # includes requests without an answer
        if self.workload.unseen and self._sent > len(self.workload.order):
            raise OutOfShapes(self.workload.name, len(self.workload.order))
        return row


class Bare:
    """OpenVINO alone, in a process that is idle between its turns."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def turn(self, seconds: int) -> Row:
        assert self._process.stdin
        assert self._process.stdout
        print(seconds, file=self._process.stdin, flush=True)
        row: Row = json.loads(self._process.stdout.readline())
        return row


@contextlib.contextmanager
def bare(model: Path, workload: Workload) -> Iterator[Bare]:
    command = [sys.executable, "-m", "benchmarks.bare", "--model", str(model)]
    command += ["--shapes", json.dumps(workload.shapes)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Bare(process)
        finally:
            process.kill()


def _signal(target: Target, number: int) -> None:
    for process in target.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)


@contextlib.contextmanager
def awake(target: Target) -> Iterator[None]:
    """Resumes the target, and stops it again when no request is in flight."""
    _signal(target, signal.SIGCONT)
    time.sleep(SETTLING_S)
    yield
    wait_until_quiet(target)
    _signal(target, signal.SIGSTOP)


@contextlib.contextmanager
def between_turns(arm: str, plan: Plan, first: Workload) -> Iterator[Target]:
    """Starts an arm and stops it; resumes it at the end, so that it can exit."""
    with SERVING[arm](plan.models[first.model], first, plan.directory) as target:
        try:
            _signal(target, signal.SIGSTOP)
            yield target
        finally:
            _signal(target, signal.SIGCONT)


def repetition(plan: Plan) -> Iterator[Row]:
    """Yields the row of every turn, of every workload and its arms.

    Starts each arm once for all workloads of the same server.
    """
    for server in dict.fromkeys(workload.server for workload in plan.workloads):
        together = [workload for workload in plan.workloads if workload.server == server]
        with contextlib.ExitStack() as running:
            targets = {
                arm: running.enter_context(between_turns(arm, plan, together[0]))
                for arm in plan.arms
                if arm != BARE and any(arm in workload.arms for workload in together)
            }
            for workload in together:
                yield from _taken(workload, targets, plan)


def _taken(workload: Workload, targets: dict[str, Target], plan: Plan) -> Iterator[Row]:
    with contextlib.ExitStack() as running:
        runners: dict[str, Runner] = {}
        for arm in (arm for arm in plan.arms if arm in workload.arms):
            if arm == BARE:
                model = plan.models[workload.model]
                runners[arm] = running.enter_context(bare(model, workload))
            else:
                runners[arm] = server = Server(targets[arm], workload, plan.directory)
                server.warm_up()
        for number in range(max(TURNS_AT_LEAST, plan.seconds // workload.turn_s)):
            # Alternates the order, because an arm may affect the next one.
            for arm in list(runners)[:: -1 if number % 2 else 1]:
                row = runners[arm].turn(workload.turn_s)
                yield {"workload": workload.name, "arm": arm, "turn": number, **row}
