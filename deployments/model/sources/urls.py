"""The URLs of sources: shown without their secrets, and the names of the files they lead to."""

import re
from typing import Final
from urllib.parse import unquote, urlsplit

from deployments.model.sources.local import SourceUnavailable

PLAIN_NAME: Final = re.compile(r"\w[\w .+@()=-]*")


def shown(url: str) -> str:
    """The URL without what may be secret in it; raises SourceUnavailable when it is none."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise SourceUnavailable("a file of the source has no valid URL") from error
    # Passwords and signatures stand before the @ and after the ?.
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path or '/'}"


def file_name(url: str) -> str:
    """The name of the file that the URL leads to; raises SourceUnavailable unless it is plain."""
    name = last_part(url)
    if not PLAIN_NAME.fullmatch(name):
        raise SourceUnavailable(f"{shown(url)} does not end in a plain file name")
    return name


def last_part(url: str) -> str:
    """What follows the last slash of the URL's path."""
    return unquote(shown(url).rpartition("/")[2])
