"""The setting `source`, where a model comes from, and the base of all groups of settings."""

import re
from collections import Counter
from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, TypeAlias
from urllib.parse import unquote, urlsplit

from fsspec import available_protocols
from pydantic import BaseModel, ConfigDict, Field, field_validator

from deployments.settings.problems import suggestion

BUILTIN_MODELS = ("spots",)
STORES = frozenset(available_protocols()) - {"http", "https"}
"""The URL schemes of a source; over http(s) only single files are downloaded, with their hashes."""

StorageOption: TypeAlias = str | int | float | bool | dict[str, Any]
AtLeastOne = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """The base of all groups of settings."""

    # Strict: YAML has its own types, and `true` for a number is a mistake.
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, strict=True)


class RemoteFile(Group):
    """A file of a model that is downloaded once (`source` as a list)."""

    url: str = Field(
        description="The server downloads it over https into the model repository, once and "
        "again when the url changes, its query excepted. The last part of the path is the file's "
        "name there. Plain http is refused except from localhost."
    )
    sha384: str = Field(
        description="The file's hash, as 96 hexadecimal digits. When it changes, the server "
        "downloads the file again. A download with another hash is discarded; a version that is "
        "already loaded then stays in service."
    )

    @property
    def file_name(self) -> str:
        return PurePosixPath(unquote(urlsplit(self.url).path)).name

    @field_validator("url")
    @classmethod
    def _fetchable(cls, url: str) -> str:
        if re.search(r"[\s\x00-\x1f\x7f]", url):
            raise ValueError(f"{url!r} has blanks or control characters")
        try:
            scheme, host, path = urlsplit(url).scheme, urlsplit(url).hostname, urlsplit(url).path
        except ValueError:
            raise ValueError(f"{url!r} is not a URL") from None
        if not host or scheme not in ("https", "http"):
            raise ValueError(f"{url!r} is not a URL that starts with https://")
        if scheme == "http" and host not in ("localhost", "127.0.0.1"):
            raise ValueError(f"{url!r} must use https, plain http is for localhost only")
        name = unquote(path).rpartition("/")[2]
        if not re.fullmatch(r"[^./\\\x00-\x1f][^/\\\x00-\x1f]*", name):
            raise ValueError(f"{url!r} does not end in a file name")
        return url

    @field_validator("sha384")
    @classmethod
    def _digest(cls, text: str) -> str:
        if not re.fullmatch(r"[0-9a-fA-F]{96}", text):
            raise ValueError(f"must be 96 hexadecimal digits, has {len(text)} characters")
        return text.lower()


def check_source(source: str | list[RemoteFile]) -> None:
    """Raises ValueError if the source is none that the server can read."""
    if isinstance(source, list):
        names = Counter(file.file_name for file in source)
        if not names:
            raise ValueError("lists no file")
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"has {count} files named '{name}', one would replace another")
    elif source.startswith("builtin:"):
        if source.removeprefix("builtin:") not in BUILTIN_MODELS:
            known = ", ".join(f"'builtin:{name}'" for name in BUILTIN_MODELS)
            raise ValueError(f"{source!r} is not built in, known: {known}")
    elif "://" in source:
        _check_url(source)
    elif not source.strip() or "\0" in source:
        raise ValueError(f"{source!r} is not a path")


def _check_url(source: str) -> None:
    """Raises ValueError, without secrets, unless this is the URL of a store's directory."""
    scheme = source.partition("://")[0]
    if scheme in ("http", "https"):
        # The text omits possible secrets: a password stands before the @, a signature after the ?.
        raise ValueError(
            f"'{_without_secrets(source)}' must be a list of files, each with its url and sha384"
        )
    if scheme not in STORES:
        raise ValueError(f"'{scheme}://' cannot be read, {suggestion(scheme, STORES)}")
    try:
        password = urlsplit(source).password
    except ValueError:
        raise ValueError(f"the URL after '{scheme}://' cannot be read") from None
    if password is not None or re.search(r"[?#]", source):
        raise ValueError(
            f"the URL after '{scheme}://' may have no password and no query: put credentials into "
            "the environment, and other options into storage_options"
        )
    if re.search(r"::|[\s\x00-\x1f\x7f]", source) or source.endswith("://"):
        raise ValueError(f"{source!r} is not the URL of a directory")


def _without_secrets(url: str) -> str:
    head, _, tail = re.sub(r"[?#].*", "", url, flags=re.S).partition("://")
    authority, slash, path = tail.partition("/")
    return f"{head}://{authority.rpartition('@')[2]}{slash}{path}"
