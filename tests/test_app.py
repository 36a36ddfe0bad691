"""The application graph that Serve gets."""

import pytest
from ray.serve import Application

from deployments.app import build
from deployments.settings import SettingsError


def test_a_mapping_of_settings_gives_an_application() -> None:
    models = [{"name": "spots", "source": "builtin:spots"}]

    assert isinstance(build({"models": models}), Application)


def test_a_typo_is_refused_with_the_path_of_the_key() -> None:
    models = [{"name": "spots", "source": "builtin:spots", "reshaep": "blocking"}]

    with pytest.raises(SettingsError, match=r"models\[0\]\.reshaep.*'reshape'"):
        build({"models": models})
