"""Settings that change while versions serve, unloading, and the task that looks after it all."""

import asyncio
from typing import Any

import pytest

from deployments.inference import ModelStatus
from tests.model.sites import Make, Site, eventually, model, settled, states

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
