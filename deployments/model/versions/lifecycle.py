"""What a version of a model goes through in a replica, for those that look after it."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments.inference import ModelInfo
from deployments.settings import ModelSettings


class LoadFailed(Exception):
    """Raised when a version cannot be loaded; the text says why in words."""


class Serving(Protocol):
    """A loaded version at work."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def remark(self) -> str:
        """What its status says though it answers; empty where there is nothing to say."""
        ...

    def configure(self, settings: ModelSettings) -> None:
        """Takes over what needs no loading."""
        ...

    async def close(self) -> None: ...


ServingT = TypeVar("ServingT", bound=Serving)


@dataclass(slots=True)
class VersionState(Generic[ServingT]):
    """A version that is wanted, or was and still answers.

    `loaded` and `failed` are what was loaded and what could not be.
    """

    serving: ServingT | None = None
    loaded: Hashable = None
    failed: Hashable = None
    problem: str = ""
    wait_s: float = 0.0
    tried_at: float = 0.0
    loading: bool = False
