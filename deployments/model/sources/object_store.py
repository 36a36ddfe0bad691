"""Lists and reads models in object stores and other filesystems that fsspec supports.

Blocking: call it in worker threads. The layout is the same as on disk, `<version>/<files>`.
"""

import errno
import hashlib
import json
import os
import re
import socket
import ssl
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import fsspec
from fsspec.registry import known_implementations

from deployments import timing
from deployments.model.sources.download import broken_connection
from deployments.model.sources.local import SourceUnavailable, model_name, version_number
from deployments.model.sources.urls import shown

PIECE_BYTES = 4 * 2**20

_EXTRAS: Final = {"s3fs": "anyshape[s3]", "gcsfs": "anyshape[gs]"}
_UNREACHABLE: Final = {
    *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE),
    *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN),
}
# The fields in which stores report a file's version: checksums first, then tags, then times.
_STAMPS: Final = (
    *("md5Hash", "crc32c", "content_md5", "ETag", "etag"),
    *("mtime", "LastModified", "last_modified", "modified", "updated", "created"),
)

# The default class asks Google's control plane over gRPC for the kind of each bucket. It times out
# where only the JSON API can be reached (emulators, proxies). Only zonal buckets need that gRPC.
for _scheme in ("gs", "gcs"):
    fsspec.register_implementation(_scheme, "gcsfs.core.GCSFileSystem", clobber=True)


@dataclass(frozen=True)
class StoredFile:
    """A file of a version: its path in the store, and its name within the version."""

    path: str
    name: str
    size: int | None
    stamp: str
    """Changes with the content, as far as the store reports it."""


def signature(files: Collection[StoredFile]) -> str:
    """A hash that changes when a file is added, removed or replaced."""
    facts = sorted((file.name, file.size, file.stamp) for file in files)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Store:
    """A directory of versions in a store.

    Every call times out. If fsspec's filesystem is asynchronous, as for S3, Google Cloud Storage
    and Azure, a listing and each PIECE_BYTES of a file may take `timing.STORE_CALL_S`, including
    retries. For others the timeouts of the operating system or the protocol apply. The filesystem
    looks for credentials once, and again after a failure. All methods raise SourceUnavailable.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = shown(url)
        with self._translated():
            self._files, root = fsspec.url_to_fs(url, **options)
        self._root = f"{root.rstrip('/')}/"
        self._bounds = {"timeout": timing.STORE_CALL_S} if self._files.async_impl else {}

    def versions(self) -> dict[int, tuple[StoredFile, ...]]:
        """The files of each version that has a model file, lowest version first.

        Skips files and directories whose names start with a dot, as on disk.
        """
        found: dict[int, list[StoredFile]] = {}
        for path, info in self._listing().items():
            folder, _, name = path.removeprefix(self._root).partition("/")
            number = version_number(folder)
            if number and info["type"] == "file" and not _is_skipped(name):
                file = StoredFile(path, name, info.get("size"), _stamp(info))
                found.setdefault(number, []).append(file)
        return {
            number: tuple(found[number])
            for number in sorted(found)
            if model_name([file.name for file in found[number] if "/" not in file.name])
        }

    def read(self, file: StoredFile) -> Iterator[bytes]:
        """Yields the file in pieces. Raises SourceUnavailable if it has not `size` bytes."""
        size = file.size or 0
        for start in range(0, size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, size)
            with self._translated():
                piece: bytes = self._files.cat_file(file.path, start=start, end=end, **self._bounds)
            if len(piece) != end - start:
                raise SourceUnavailable(f"{self.url}: {file.name} changed while it was read")
            yield piece

    def _listing(self) -> dict[str, dict[str, Any]]:
        with self._translated():
            self._files.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._files.find(
                self._root.rstrip("/"), detail=True, **self._bounds
            )
        return found

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise SourceUnavailable(
                f"{self.url} cannot be read: {_missing_package(self.url)}"
            ) from None
        except Exception as error:  # each filesystem has exceptions of its own
            if hasattr(self, "_files"):
                # fsspec caches filesystems, and those cache that they found no credentials.
                type(self._files).clear_instance_cache()
            # Without the cause, because other libraries' texts may contain signatures.
            raise SourceUnavailable(f"{self.url} cannot be read: {_why(error)}") from None


def _is_skipped(name: str) -> bool:
    # Web consoles create empty objects for directories, `1/` and `1/variables/`.
    return name[-1:] in ("", "/") or any(
        part.startswith(".") and part not in (".", "..") for part in name.split("/")
    )


def _stamp(info: Mapping[str, Any]) -> str:
    return next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")


def _missing_package(url: str) -> str:
    scheme = url.partition("://")[0]
    package = known_implementations[scheme]["class"].partition(".")[0]
    if package in _EXTRAS:
        return f"a package is not installed, run 'pip install {_EXTRAS[package]}'"
    return f"the package that fsspec needs for {scheme}:// is not installed"


def _why(error: BaseException) -> str:
    chain = list(_chain(error))
    code = next(filter(None, map(_code, chain)), "")
    return f"{_reason(chain, code)} ({code})" if code else _reason(chain, code)


def _reason(chain: list[BaseException], code: str) -> str:
    # Compares names, because the stores' packages are optional.
    kinds = " ".join(kind.__name__ for link in chain for kind in type(link).__mro__)
    if "Timeout" in kinds:
        return f"no answer within {timing.STORE_CALL_S:.0f} s"
    if code == "401" or re.search(r"Credential|RefreshError|TokenRetrieval|ProfileNotFound", kinds):
        return "no valid credentials were found"
    if "PermissionError" in kinds or str(chain[0]).startswith("Forbidden"):  # gcsfs's text
        return "access is denied"
    if "FileNotFoundError" in kinds:
        return "it does not exist"
    if broken := next(filter(None, map(_no_connection, reversed(chain))), None):
        return broken
    if re.search(r"\b(TypeError|ValueError|ParamValidationError)\b", kinds):
        return "its URL or storage_options cannot be used"
    return "the store's answer cannot be used"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _code(error: BaseException) -> str:
    """The store's own error code, if any."""
    code = getattr(error, "code", None)
    with suppress(AttributeError, KeyError, TypeError):
        code = error.response["Error"]["Code"]  # type: ignore[attr-defined]  # botocore's
    return str(code) if isinstance(code, str | int) and re.fullmatch(r"\w+", str(code)) else ""


def _no_connection(error: BaseException) -> str | None:
    if isinstance(error, ssl.SSLError | socket.gaierror):
        return broken_connection(error)
    if isinstance(error, OSError) and error.errno in _UNREACHABLE:
        return os.strerror(error.errno).lower()  # asyncio's own text has addresses in it
    return None
