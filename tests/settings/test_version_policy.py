import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.settings.version_policy import VersionPolicy, parse_version_policy


@pytest.mark.parametrize(
    ("written", "policy"),
    [
        ("all", VersionPolicy()),
        ({"all": {}}, VersionPolicy()),
        ({"latest": 3}, VersionPolicy(latest=3)),
        ({"latest": {"num_versions": 2}}, VersionPolicy(latest=2)),
        ({"specific": [3, 1]}, VersionPolicy(specific=(3, 1))),
        ({"specific": {"versions": [1]}}, VersionPolicy(specific=(1,))),
    ],
)
def test_short_forms_and_those_of_openvino_model_server_are_read(
    written: Any, policy: VersionPolicy
) -> None:
    assert policy == parse_version_policy(written)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("newest", "'newest' is not a version policy, write 'all', 'latest: 2' or"),
        ({"latest": 1, "all": {}}, "is not a version policy"),
        ({"oldest": 1}, "{'oldest': 1} is not a version policy"),
        ({"latest": 0}, "'latest' has 0, not a number of at least 1"),
        ({"latest": True}, "'latest' has True, not a number"),
        ({"latest": {"versions": 1}}, "'latest' has {'versions': 1}, not a number"),
        ({"specific": []}, "'specific' has [], not a list of versions"),
        ({"specific": 3}, "'specific' has 3, not a list of versions"),
        ({"specific": [1, "2"]}, "'specific' has '2', not a number of at least 1"),
        ({"specific": [2, 1, 2]}, "'specific' names a version twice: [2, 1, 2]"),
    ],
)
def test_anything_else_is_refused_with_what_it_is(written: Any, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        parse_version_policy(written)


NUMBERS = st.sets(st.integers(1, 20))


@given(NUMBERS, st.integers(1, 5))
def test_all_are_candidates_highest_first_unless_some_are_named(found: set[int], n: int) -> None:
    assert sorted(found, reverse=True) == VersionPolicy(latest=n).candidates(found)
    assert sorted(found, reverse=True) == VersionPolicy().candidates(found)


@given(NUMBERS, NUMBERS)
def test_named_versions_are_candidates_or_missing(found: set[int], named: set[int]) -> None:
    policy = VersionPolicy(specific=tuple(named))
    assert sorted(found & named, reverse=True) == policy.candidates(found)
    assert named - found == set(policy.missing(found))
