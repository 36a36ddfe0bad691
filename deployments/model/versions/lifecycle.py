"""The state of a model's version in a replica, and the interface of a loaded one."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from deployments.inference import ModelInfo
from deployments.settings import ModelSettings


class LoadFailed(Exception):
    """Raised when a version cannot be loaded; the text has the reason."""


class Serving(Protocol):
    """A loaded version that answers requests."""

    @property
    def info(self) -> ModelInfo: ...

    @property
    def remark(self) -> str:
        """A warning for the version's status, empty if there is none."""
        ...

    def configure(self, settings: ModelSettings) -> None:
        """Applies the settings that need no reload."""
        ...

    async def close(self) -> None: ...


ServingT = TypeVar("ServingT", bound=Serving)


@dataclass(slots=True)
class VersionState(Generic[ServingT]):
    """A version that the settings select, or an earlier one that still answers.

    `loaded` identifies the files and settings that are loaded, `failed` those that failed to load.
    """

    serving: ServingT | None = None
    loaded: Hashable = None
    failed: Hashable = None
    problem: str = ""
    wait_s: float = 0.0
    tried_at: float = 0.0
    loading: bool = False
