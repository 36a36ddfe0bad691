"""The settings in `serve_config.yaml`, checked when the application is built.

One module for each group of settings, `problems` for the texts about mistakes, and `markdown` for
the README's tables. May import the vocabulary. The serving code imports the names below from here.
"""

from deployments.settings.application import (
    REPOSITORY_VARIABLE,
    Settings,
    SettingsError,
    changed,
    settings_from,
)
from deployments.settings.batching import Batching
from deployments.settings.limits import Limits
from deployments.settings.markdown import render
from deployments.settings.model import INGRESS_NAME, ModelSettings
from deployments.settings.source import RemoteFile

__all__ = [
    "INGRESS_NAME",
    "REPOSITORY_VARIABLE",
    "Batching",
    "Limits",
    "ModelSettings",
    "RemoteFile",
    "Settings",
    "SettingsError",
    "changed",
    "settings_from",
    "settings_table",
]


def settings_table() -> str:
    """All settings in Markdown, a table for each group."""
    return render(Settings)
