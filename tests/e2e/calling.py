"""Calls clients in a separate interpreter, which starts once for many calls."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from select import select

from tests.e2e.server import ROOT

PATIENCE_S = 150


@dataclass(frozen=True)
class Client:
    """An interpreter that calls the functions of a module in `tests.e2e.clients`."""

    process: "subprocess.Popen[str]"

    def call(self, name: str, *arguments: str) -> None:
        """Calls a function. Raises AssertionError with the function's error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        if not select([self.process.stdout], [], [], PATIENCE_S)[0]:
            self.process.kill()  # a late answer must not count for the next call
            raise AssertionError(f"{name} has not returned within {PATIENCE_S} s")
        answer = self.process.stdout.readline()
        assert answer, f"the interpreter ended in {name}"
        wrong = json.loads(answer)
        assert not wrong, wrong


@contextlib.contextmanager
def client(module: str, python: Path | str = sys.executable) -> Iterator[Client]:
    process = subprocess.Popen(
        [python, "-m", f"tests.e2e.clients.{module}"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Client(process)
    finally:
        process.kill()
        process.communicate()
