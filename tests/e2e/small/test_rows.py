"""Requests of one shape that come at once, to models whose rows depend on each other, or do not."""

import pytest

from tests.e2e.server import Server
from tests.e2e.small.answers import check_together
from tests.e2e.small.rows import ACROSS, MODELS, requests

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", MODELS)
async def test_of_200_requests_from_16_clients_each_is_answered_as_alone(
    server: Server, name: str
) -> None:
    await check_together(server, name, MODELS[name], requests(), times=10, clients=16)
    statistics = server.statistics(name)
    assert 200 <= statistics["requests"]
    assert (name not in ACROSS) == (statistics["stacked_batches"] > 0)
