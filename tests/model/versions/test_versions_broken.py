"""Versions and sources that cannot be had take nothing from what serves."""

import asyncio

import pytest

from deployments.inference import ModelStatus
from deployments.model.sources.local import FoundVersion
from deployments.settings import ModelSettings
from tests.model.sites import Make, settled, states


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

    def find(settings: ModelSettings) -> dict[int, FoundVersion]:
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
