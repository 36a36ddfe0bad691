from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.model.execution.executor import Execution
from tests.model.sites import Site
from tests.model.spent_time import CLOCK


@pytest.fixture(autouse=True)
def static_compilations_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes static compilations faster: tests' models are too small to time."""
    monkeypatch.setattr("deployments.model.versions.promotion._Trial.verdict", lambda *_: True)


@pytest.fixture
def spent_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes measurements take the time that the test's compilations spend."""
    time = SimpleNamespace(perf_counter=CLOCK)
    monkeypatch.setattr("deployments.model.tuning.comparisons.time", time)


@pytest.fixture
async def site() -> AsyncIterator[Callable[..., Site]]:
    sites: list[Site] = []

    def make(**settings: Any) -> Site:
        sites.append(Site(**settings))
        return sites[-1]

    yield make
    for made in sites:
        await made.versions.close()
        assert all(loaded.closed for loaded in made.loaded)


@pytest.fixture
async def execution() -> AsyncIterator[Execution]:
    execution = Execution(2, 2)
    yield execution
    execution.close()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as threads:
        yield threads
