"""The shapes that are compiled when a version is loaded."""

from pathlib import Path
from typing import Any

import pytest

from deployments.model.versions.lifecycle import LoadFailed
from deployments.model.versions.loader import LocalDirectories
from deployments.model.versions.serving import VersionServer
from tests.e2e.live import put_version
from tests.model.versions.from_files import ask, loaded


@pytest.mark.parametrize(
    ("warm_up", "told"),
    [
        ({"other": "(1,4)"}, "warm_up names ['other'], the inputs are ['data']"),
        ("(1,4,4)", "warm_up has [1,4,4] for input 'data', which takes (-1,-1)"),
    ],
)
async def test_warm_up_that_the_model_cannot_take_is_refused(
    warm_up: Any, told: str, tmp_path: Path
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    with pytest.raises(LoadFailed) as caught:
        await loaded(tmp_path, warm_up=[warm_up])
    assert told == str(caught.value)


async def test_what_is_remembered_is_compiled_if_it_suits_and_there_is_room(
    tmp_path: Path,
) -> None:
    put_version(tmp_path / "models" / "m", 1)
    places = LocalDirectories(tmp_path / "models", tmp_path / "cache", 10**9)
    hot = places.hot_shapes("m")
    assert hot is not None
    hot.write([((1, 5),), ((1, 2, 3),), ((1, 3), (1, 3)), ((1, 6),), ((1, 7),)])
    serving = await loaded(
        tmp_path, cache=True, remember_shapes=5, warm_up=["(1,4)"], max_compiled_shapes=5
    )
    assert isinstance(serving, VersionServer)
    assert 3 == serving.statistics()["compiled_shapes"]
    await ask(serving, 1, 6)
    assert [((1, 6),)] == serving.hot_shapes(1)
    await serving.close()
