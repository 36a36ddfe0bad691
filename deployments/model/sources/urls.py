"""The URLs of sources, without their secrets, and the names of their files."""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from deployments.model.sources.local import SourceUnavailable

PLAIN_NAME: Final = re.compile(r"\w[\w .+@()=-]*")


def shown(url: str) -> str:
    """The URL without the parts that may be secret. Raises SourceUnavailable if it is invalid."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceUnavailable("a file of the source has no valid URL") from error
    # Passwords are before the @, signatures after the ?.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"


def file_name(url: str) -> str:
    """The name of the URL's file. Raises SourceUnavailable if it is not plain."""
    name = last_part(url)
    if not PLAIN_NAME.fullmatch(name):
        raise SourceUnavailable(f"{shown(url)} does not end in a plain file name")
    return name


def last_part(url: str) -> str:
    """The part of the URL's path after the last slash."""
    return unquote(shown(url).rpartition("/")[2])
