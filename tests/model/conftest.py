import pytest


@pytest.fixture(autouse=True)
def static_compilations_win(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test's models are too small to time: what is promoted would be chance."""
    monkeypatch.setattr("deployments.model.version.static_wins", lambda *_: True)
