"""The versions of a model over time, with files and loading in the hands of the test."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from deployments.inference import InputSpec, ModelInfo, ModelStatus
from deployments.model.lifecycle import LoadFailed
from deployments.model.repository import Found, SourceUnavailable
from deployments.model.versions import Versions
from deployments.settings import ModelSettings
from deployments.tensors import BYTES


def info(version: str, *, inputs: str = "x") -> ModelInfo:
    return ModelInfo("m", version, (version,), (InputSpec(inputs, BYTES, ()),), (), 8)


@dataclass(eq=False)
class Loaded:
    info: ModelInfo
    files: Found
    settings: ModelSettings
    bounds: list[int] = field(default_factory=list)
    closed: bool = False

    def configure(self, settings: ModelSettings) -> None:
        self.bounds.append(settings.max_compiled_shapes)

    async def close(self) -> None:
        self.closed = True


class Site:
    """The files, the loader and the clock. `broken` versions cannot be loaded."""

    def __init__(self, **settings: Any) -> None:
        self.found: dict[int, Found] = {}
        self.unavailable = ""
        self.broken: dict[int, str] = {}
        self.loaded: list[Loaded] = []
        self.attempts: list[int] = []
        self.now = 0.0
        self.go = asyncio.Event()
        self.go.set()
        self.versions: Versions[Loaded] = Versions(
            model(**settings), self.find, self.load, linger_s=0.0, clock=lambda: self.now
        )

    def put(self, number: int, content: str = "a") -> None:
        self.found[number] = Found(f"m/{number}/m.xml", content)

    def find(self, settings: ModelSettings) -> dict[int, Found]:
        if self.unavailable:
            raise SourceUnavailable(self.unavailable)
        return dict(self.found)

    async def load(self, number: int, files: Found, settings: ModelSettings) -> Loaded:
        self.attempts.append(number)
        await self.go.wait()
        if number in self.broken:
            raise LoadFailed(self.broken[number])
        name = "y" if settings.layout_is_other else "x"  # type: ignore[attr-defined]
        self.loaded.append(Loaded(info(str(number), inputs=name), files, settings))
        return self.loaded[-1]


class Settings(ModelSettings):
    layout_is_other: bool = False


def model(**settings: Any) -> ModelSettings:
    return Settings(**{"name": "m", "source": "m", **settings})


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


def states(status: ModelStatus) -> dict[str, str]:
    return {version.version: version.state for version in status.versions}


async def settled(site: Site) -> None:
    """When nothing lingers any more."""
    await asyncio.gather(*site.versions._retiring)


async def eventually(holds: Callable[[], bool]) -> None:
    for _ in range(5_000):
        if holds():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it does not happen")


Make = Callable[..., Site]

# Which -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ({"latest": 1}, ["3"]),
        ({"latest": 2}, ["2", "3"]),
        ({"latest": 9}, ["1", "2", "3"]),
        ("all", ["1", "2", "3"]),
        ({"specific": [1, 3]}, ["1", "3"]),
    ],
)
async def test_the_policy_says_which_versions_are_served(
    site: Make, policy: Any, served: list[str]
) -> None:
    there = site(model_version_policy=policy)
    for number in (1, 2, 3):
        there.put(number)
    assert "LOADING" == there.versions.status().state
    assert await there.versions.look()
    status = there.versions.status()
    assert "AVAILABLE" == status.state
    assert dict.fromkeys(served, "AVAILABLE") == states(status)
    assert status.info is not None
    assert (served[-1], tuple(served)) == (status.info.version, status.info.versions)
    assert len(served) == len(there.loaded)
    assert not await there.versions.look()
    assert len(served) == len(there.loaded)


async def test_a_named_version_that_is_not_there_is_told(site: Make) -> None:
    there = site(model_version_policy={"specific": [1, 7]})
    there.put(1)
    await there.versions.look()
    assert {"1": "AVAILABLE", "7": "UNAVAILABLE"} == states(there.versions.status())
    assert "its directory is not there" == there.versions.status().versions[1].reason
    there.put(7)
    await there.versions.look_now()
    assert {"1": "AVAILABLE", "7": "AVAILABLE"} == states(there.versions.status())


# Coming and going --------------------------------------------------------------------------------


async def test_a_new_version_is_loaded_before_the_old_one_is_let_go_of(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    (first,) = there.loaded
    there.put(2)
    there.go.clear()
    looking = asyncio.ensure_future(there.versions.look_now())
    await eventually(lambda: len(there.attempts) == 2)
    assert {"1": "AVAILABLE", "2": "LOADING"} == states(there.versions.status())
    assert first is there.versions.revision(first.info.revision)
    there.go.set()
    await looking
    assert {"1": "UNLOADING", "2": "AVAILABLE"} == states(there.versions.status())
    assert first is there.versions.revision(first.info.revision)
    await settled(there)
    assert first.closed
    assert there.versions.revision(first.info.revision) is None
    assert {"2": "AVAILABLE"} == states(there.versions.status())


async def test_files_that_have_just_appeared_are_looked_at_again_before_they_are_loaded(
    site: Make,
) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    for half in ("half", "more", "all"):
        there.put(2, half)
        await there.versions.look()
        assert [1] == there.attempts
    await there.versions.look()
    assert [1, 2] == there.attempts
    assert "all" == there.loaded[-1].files.signature


async def test_a_removed_version_goes_and_a_lower_one_takes_its_place(site: Make) -> None:
    there = site()
    there.put(1)
    there.put(2)
    await there.versions.look()
    del there.found[2]
    await there.versions.look_now()
    await settled(there)
    assert {"1": "AVAILABLE"} == states(there.versions.status())
    there.found.clear()
    await there.versions.look()
    await settled(there)
    assert ModelStatus("UNAVAILABLE", "it has no version") == there.versions.status()


async def test_changed_files_are_loaded_beside_what_serves(site: Make) -> None:
    there = site()
    there.put(1, "a")
    await there.versions.look()
    there.put(1, "b")
    await there.versions.look_now()
    first, second = there.loaded
    assert second is there.versions.revision(second.info.revision)
    await settled(there)
    assert (True, False) == (first.closed, second.closed)
    assert second is there.versions.revision(second.info.revision)


async def test_a_version_whose_directory_is_replaced_serves_until_the_next_one_does(
    site: Make,
) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    del there.found[1]
    there.put(2)
    there.broken = {2: "it is no model"}
    for _ in range(3):
        await there.versions.look()
        assert {"1": "AVAILABLE", "2": "UNAVAILABLE"} == states(there.versions.status())
    there.broken = {}
    there.put(2, "mended")
    await there.versions.look()
    await there.versions.look()
    assert {"1": "UNLOADING", "2": "AVAILABLE"} == states(there.versions.status())


async def test_a_version_that_is_named_by_mistake_takes_nothing_from_what_serves(
    site: Make,
) -> None:
    there = site()
    there.put(3)
    await there.versions.look()
    there.versions.reconfigure(model(model_version_policy={"specific": [33]}))
    await there.versions.look()
    assert {"3": "AVAILABLE", "33": "UNAVAILABLE"} == states(there.versions.status())


async def test_going_back_to_lower_versions_does_not_wait_for_a_broken_one(site: Make) -> None:
    there = site()
    there.broken = {1: "it is no model"}
    for number in (1, 3, 5):
        there.put(number)
    await there.versions.look()
    there.versions.reconfigure(model(model_version_policy={"specific": [1, 3]}))
    await there.versions.look()
    await settled(there)
    assert {"1": "UNAVAILABLE", "3": "AVAILABLE"} == states(there.versions.status())


# What cannot be loaded ---------------------------------------------------------------------------


async def test_a_broken_version_is_told_and_the_old_one_goes_on_serving(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    there.broken = {2: "it is no model"}
    there.put(2)
    await there.versions.look_now()
    status = there.versions.status()
    assert {"1": "AVAILABLE", "2": "UNAVAILABLE"} == states(status)
    assert "it is no model; next try in 5 s" == status.versions[1].reason
    assert status.info is not None
    assert "1" == status.info.version


async def test_the_next_lower_version_stands_in_for_one_that_is_broken_from_the_start(
    site: Make,
) -> None:
    there = site(model_version_policy={"latest": 2})
    there.broken = {3: "it is no model"}
    for number in (1, 2, 3, 4):
        there.put(number)
    await there.versions.look()
    now = states(there.versions.status())
    assert {"2": "AVAILABLE", "3": "UNAVAILABLE", "4": "AVAILABLE"} == now
    there.put(5)
    await there.versions.look_now()
    await settled(there)
    assert {"4": "AVAILABLE", "5": "AVAILABLE"} == states(there.versions.status())


async def test_what_failed_is_tried_again_after_longer_and_longer_or_when_its_files_change(
    site: Make,
) -> None:
    there = site()
    there.broken = {1: "half a file"}
    there.put(1, "half")
    waits = []
    for tries in range(1, 8):
        await there.versions.look()
        assert tries == len(there.attempts)
        there.now += 1e-3
        await there.versions.look()
        assert tries == len(there.attempts)
        waits.append(there.versions.status().reason.partition("; ")[2])
        there.now += float(waits[-1].split()[-2])
    assert ["5", "10", "20", "40", "80", "120", "120"] == [wait.split()[-2] for wait in waits]
    there.broken = {}
    there.put(1, "all")
    await there.versions.look()
    assert "AVAILABLE" == there.versions.status().state


async def test_those_who_ask_at_once_share_a_look_and_do_not_make_it_worse(site: Make) -> None:
    there = site()
    there.broken = {1: "it is no model"}
    there.put(1)
    await there.versions.look()
    there.now = 6.0
    await asyncio.gather(*(there.versions.look_now() for _ in range(50)))
    assert 2 == len(there.attempts)
    for _ in range(10):
        assert not await there.versions.look_now()
    assert 2 == len(there.attempts)
    assert there.versions.status().reason.endswith("next try in 10 s")
    there.broken = {}
    there.now += 6.0
    both = await asyncio.gather(there.versions.look_now(), there.versions.look_now())
    assert [True, True] == [*both]


async def test_a_source_that_fails_in_an_unforeseen_way_is_told_and_tried_again(
    site: Make, caplog: pytest.LogCaptureFixture
) -> None:
    there = site()

    def find(settings: ModelSettings) -> dict[int, Found]:
        raise ZeroDivisionError

    there.versions._find = find
    await there.versions.look()
    status = there.versions.status()
    assert "UNAVAILABLE" == status.state
    assert status.reason.startswith("its source cannot be read, the log has the reason; next try")
    assert "ZeroDivisionError" in caplog.text
    there.versions._find = there.find
    there.put(1)
    await there.versions.look()
    assert "AVAILABLE" == there.versions.status().state


async def test_broken_changes_of_a_version_leave_it_serving_with_a_reason(site: Make) -> None:
    there = site()
    there.put(1, "good")
    await there.versions.look()
    there.broken = {1: "weights are missing"}
    there.put(1, "bad")
    await there.versions.look_now()
    (version,) = there.versions.status().versions
    assert "AVAILABLE" == version.state
    assert version.reason.startswith("weights are missing")
    there.put(1, "good")
    await there.versions.look()
    assert "" == there.versions.status().versions[0].reason
    assert 1 == len(there.loaded)


async def test_a_source_that_is_away_takes_nothing_from_what_serves(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    there.unavailable = "the disk is gone"
    await there.versions.look()
    status = there.versions.status()
    assert ("AVAILABLE", "the disk is gone") == (status.state, status.reason)
    assert {"1": "AVAILABLE"} == states(status)
    there.unavailable = ""
    await there.versions.look()
    assert "" == there.versions.status().reason


async def test_a_model_without_a_source_says_why(site: Make) -> None:
    there = site()
    there.unavailable = "no such directory"
    await there.versions.look()
    assert ModelStatus("UNAVAILABLE", "no such directory") == there.versions.status()


# Settings ----------------------------------------------------------------------------------------


async def test_bounds_are_taken_over_without_loading(site: Make) -> None:
    there = site(max_compiled_shapes=4)
    there.put(1)
    await there.versions.look()
    changes: list[dict[str, Any]] = [
        {"max_compiled_shapes": 1},
        {"promote_after": 1},
        {"batching": {"max_rows": 5}},
        {"version_labels": {"stable": 1}},
        {"poll_s": 0.0},
    ]
    for change in changes:
        there.versions.reconfigure(model(**change))
        await there.versions.look()
    (loaded,) = there.loaded
    assert [4, 1, 16, 16, 16, 16] == loaded.bounds


async def test_labels_and_rows_of_a_batch_are_what_the_settings_say_now(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    there.versions.reconfigure(model(batching={"max_rows": 5}, version_labels={"stable": 1}))
    told = there.versions.status().info
    assert told is not None
    assert (5, {"stable": "1"}) == (told.max_batch_rows, told.labels)
    assert told.revision == there.loaded[0].info.revision


async def test_rules_are_taken_over_by_loading_beside_what_serves(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    (first,) = there.loaded
    there.versions.reconfigure(model(layout_is_other=True))
    await there.versions.look()
    assert 2 == len(there.loaded)
    second = there.loaded[1]
    assert first.info.revision != second.info.revision
    assert first is there.versions.revision(first.info.revision)
    assert second is there.versions.revision(second.info.revision)
    await settled(there)
    assert there.versions.revision(first.info.revision) is None


async def test_rules_that_the_model_refuses_leave_the_old_ones_with_a_reason(site: Make) -> None:
    there = site()
    there.put(1)
    await there.versions.look()
    there.broken = {1: "shape names input 'z'"}
    there.versions.reconfigure(model(layout_is_other=True))
    await there.versions.look()
    (version,) = there.versions.status().versions
    assert ("AVAILABLE", 1) == (version.state, len(there.loaded))
    assert version.reason.startswith("shape names input 'z'")


async def test_a_policy_that_wants_others_loads_them_first(site: Make) -> None:
    there = site()
    there.put(1)
    there.put(2)
    await there.versions.look()
    there.versions.reconfigure(model(model_version_policy={"specific": [1]}))
    await there.versions.look()
    assert {"1": "AVAILABLE", "2": "UNLOADING"} == states(there.versions.status())


# Unloading ---------------------------------------------------------------------------------------


async def test_an_unloaded_model_says_so_and_comes_back(site: Make) -> None:
    there = site(model_version_policy={"specific": [1, 2]})
    there.put(1)
    await there.versions.look()
    await there.versions.set_unloaded(True)
    await settled(there)
    expected = ModelStatus("UNAVAILABLE", "it was unloaded over the API")
    assert expected == there.versions.status()
    assert not await there.versions.look()
    await there.versions.set_unloaded(False)
    assert "AVAILABLE" == there.versions.status().state


# Following ---------------------------------------------------------------------------------------


async def test_following_looks_again_after_a_while_and_when_the_settings_change() -> None:
    there = Site(poll_s=0.01)
    following = asyncio.ensure_future(there.versions.follow())
    await there.versions.first_look.wait()
    there.put(1)
    await eventually(lambda: there.versions.status().state == "AVAILABLE")
    there.versions.reconfigure(model(poll_s=0.0, layout_is_other=True))
    await eventually(lambda: len(there.loaded) == 2)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await there.versions.close()
    assert [True, True] == [loaded.closed for loaded in there.loaded]
    assert there.versions.revision(there.loaded[1].info.revision) is None


@pytest.mark.parametrize("turns", range(5))
async def test_following_ends_when_it_is_cancelled_while_the_settings_change(turns: int) -> None:
    there = Site(poll_s=60.0)
    following = asyncio.ensure_future(there.versions.follow())
    await there.versions.first_look.wait()
    await asyncio.sleep(0.01)
    there.versions.reconfigure(model())
    for _ in range(turns):
        await asyncio.sleep(0)
    following.cancel()
    await asyncio.wait([following], timeout=5)
    assert following.cancelled()


async def test_closing_does_not_wait_for_what_lingers() -> None:
    there = Site()
    there.versions._linger_s = 3600.0
    there.put(1)
    await there.versions.look()
    there.put(2)
    await there.versions.look_now()
    await asyncio.wait_for(there.versions.close(), 10)
    assert [True, True] == [loaded.closed for loaded in there.loaded]
