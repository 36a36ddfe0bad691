"""The versions of a model over time: which are served, how they come and go."""

import asyncio
from typing import Any

import pytest

from deployments.inference import ModelStatus
from tests.model.sites import Make, eventually, model, settled, states

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
    assert "its directory is missing" == there.versions.status().versions[1].reason
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
