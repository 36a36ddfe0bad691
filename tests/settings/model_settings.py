"""A model's settings, and the reason for which they are refused."""

from typing import Any

import pytest
from pydantic import ValidationError

from deployments.settings.model import ModelSettings


def model(**changes: Any) -> ModelSettings:
    return ModelSettings.model_validate({"name": "m", "source": "builtin:spots", **changes})


def refusal(**changes: Any) -> str:
    with pytest.raises(ValidationError) as raised:
        model(**changes)
    (detail,) = raised.value.errors()
    return str(detail["msg"]).removeprefix("Value error, ")
