"""The versions of a model that are served: OpenVINO Model Server's `model_version_policy`."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_FORMS: Final = "write 'all', 'latest: 2' or 'specific: [1, 3]'"


@dataclass(frozen=True)
class VersionPolicy:
    """A selection of versions: the `latest` ones, the `specific` ones, or all if both are None."""

    latest: int | None = None
    specific: tuple[int, ...] | None = None

    def candidates(self, found: Iterable[int]) -> list[int]:
        """The found versions that may be served, the highest first.

        They are not cut to `latest`, because a version that cannot be loaded does not count.
        """
        wanted = (n for n in found if self.specific is None or n in self.specific)
        return sorted(wanted, reverse=True)

    def missing(self, found: Collection[int]) -> list[int]:
        """The required versions that were not found."""
        return [n for n in self.specific or () if n not in found]


def parse_version_policy(written: object) -> VersionPolicy:
    """Reads the short forms and OpenVINO Model Server's; ValueError says what is wrong."""
    if written in ("all", {"all": {}}, {"all": None}):
        return VersionPolicy()
    if isinstance(written, Mapping) and len(written) == 1:
        ((kind, value),) = written.items()
        if kind == "latest":
            return VersionPolicy(latest=_number(_inner(value, "num_versions"), "latest"))
        if kind == "specific":
            return VersionPolicy(specific=_numbers(_inner(value, "versions")))
    raise ValueError(f"{written!r:.100} is not a version policy, {_FORMS}")


def _inner(value: Any, key: str) -> Any:
    if isinstance(value, Mapping) and set(value) == {key}:
        return value[key]
    return value


def _number(value: Any, kind: str) -> int:
    if type(value) is not int or value < 1:
        raise ValueError(f"'{kind}' has {value!r:.100}, not a number of at least 1; {_FORMS}")
    return value


def _numbers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not values:
        raise ValueError(f"'specific' has {values!r:.100}, not a list of versions; {_FORMS}")
    numbers = tuple(_number(value, "specific") for value in values)
    if len(set(numbers)) < len(numbers):
        raise ValueError(f"'specific' names a version twice: {values!r:.100}")
    return numbers
