"""The README's tables match the code."""

import re
from pathlib import Path

from deployments.observability.metrics import metrics_table
from deployments.settings import settings_table

README = Path(__file__).parents[1] / "README.md"


def test_the_settings_table_is_the_one_that_the_settings_give() -> None:
    found = re.search(r"<!-- settings: .*? -->(.*)<!-- /settings -->", README.read_text(), re.S)

    assert found is not None
    assert settings_table().strip() == found[1].strip()


def test_the_metrics_table_is_the_one_that_the_declarations_give() -> None:
    found = re.search(r"<!-- metrics: .*? -->(.*)<!-- /metrics -->", README.read_text(), re.S)

    assert found is not None
    assert metrics_table().strip() == found[1].strip()
