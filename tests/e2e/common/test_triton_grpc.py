"""`tritonclient.grpc` as its users have it, through HAProxy."""

import pytest

from tests.e2e.calling import Client
from tests.e2e.clients import TRITON_GRPC
from tests.e2e.server import Server

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.mark.parametrize("name", TRITON_GRPC)
def test_through_haproxy(name: str, triton: Client, server: Server) -> None:
    triton.call(name, server.grpc)
