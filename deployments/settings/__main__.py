"""`python -m deployments.settings` prints the README's tables of settings."""

import sys

from deployments.settings import settings_table

sys.stdout.write(settings_table() + "\n")
