"""Models in object stores and whatever else fsspec reads: which versions there are, their bytes.

Blocks and belongs in a worker thread. A store's directory is laid out as one on disk,
`<version>/<files>`.
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
# What stores tell of a file besides its size: sums before tags, tags before times.
_STAMPS: Final = (
    *("md5Hash", "crc32c", "content_md5", "ETag", "etag"),
    *("mtime", "LastModified", "last_modified", "modified", "updated", "created"),
)

# Otherwise gcsfs asks Google's control plane over gRPC for the kind of each bucket, and where only
# the JSON API is in reach (emulators, proxies) it waits in vain. Zonal buckets need that gRPC.
for _scheme in ("gs", "gcs"):
    fsspec.register_implementation(_scheme, "gcsfs.core.GCSFileSystem", clobber=True)


@dataclass(frozen=True)
class StoredFile:
    """A file of a version: where it lies in the store and its name within the version."""

    path: str
    name: str
    size: int | None
    stamp: str
    """Changes with the content, as far as the store notices."""


def signature(files: Collection[StoredFile]) -> str:
    """Changes when a file is added, removed or replaced."""
    facts = sorted((file.name, file.size, file.stamp) for file in files)
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class Store:
    """A directory of versions in a store.

    Nothing hangs for ever: where fsspec works asynchronously, as for S3, Google Cloud Storage and
    Azure, a listing and each PIECE_BYTES of a file have `timing.STORE_CALL_S`, retries included;
    elsewhere the operating system's or the protocol's own timeouts hold. Credentials are looked for
    once, and again after a failure. All methods raise SourceUnavailable.
    """

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = shown(url)
        with self._told():
            self._files, root = fsspec.url_to_fs(url, **options)
        self._root = f"{root.rstrip('/')}/"
        self._bounds = {"timeout": timing.STORE_CALL_S} if self._files.async_impl else {}

    def versions(self) -> dict[int, tuple[StoredFile, ...]]:
        """The files of each version that has a model file, lowest version first.

        Files and directories whose names start with a dot are left out, as on disk.
        """
        found: dict[int, list[StoredFile]] = {}
        for path, info in self._listing().items():
            folder, _, name = path.removeprefix(self._root).partition("/")
            number = version_number(folder)
            if number and info["type"] == "file" and not _left_out(name):
                file = StoredFile(path, name, info.get("size"), _stamp(info))
                found.setdefault(number, []).append(file)
        return {
            number: tuple(found[number])
            for number in sorted(found)
            if model_name([file.name for file in found[number] if "/" not in file.name])
        }

    def read(self, file: StoredFile) -> Iterator[bytes]:
        """The file's bytes in pieces; raises SourceUnavailable unless there are `size` of them."""
        size = file.size or 0
        for start in range(0, size, PIECE_BYTES):
            end = min(start + PIECE_BYTES, size)
            with self._told():
                piece: bytes = self._files.cat_file(file.path, start=start, end=end, **self._bounds)
            if len(piece) != end - start:
                raise SourceUnavailable(f"{self.url}: {file.name} changed while it was read")
            yield piece

    def _listing(self) -> dict[str, dict[str, Any]]:
        with self._told():
            self._files.invalidate_cache()
            found: dict[str, dict[str, Any]] = self._files.find(
                self._root.rstrip("/"), detail=True, **self._bounds
            )
        return found

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except ImportError:
            raise SourceUnavailable(
                f"{self.url} cannot be read: {_missing_package(self.url)}"
            ) from None
        except Exception as error:  # each filesystem has exceptions of its own
            if hasattr(self, "_files"):
                # fsspec keeps filesystems, and those keep having found no credentials.
                type(self._files).clear_instance_cache()
            # No cause: other libraries' texts may hold what was signed.
            raise SourceUnavailable(f"{self.url} cannot be read: {_why(error)}") from None


def _left_out(name: str) -> bool:
    # Consoles make empty objects for directories, `1/` and `1/variables/`.
    return name[-1:] in ("", "/") or any(
        part.startswith(".") and part not in (".", "..") for part in name.split("/")
    )


def _stamp(info: Mapping[str, Any]) -> str:
    return next((f"{key} {info[key]}" for key in _STAMPS if info.get(key)), "")


def _missing_package(url: str) -> str:
    scheme = url.partition("://")[0]
    package = known_implementations[scheme]["class"].partition(".")[0]
    if package in _EXTRAS:
        return f"a package is not installed, 'pip install {_EXTRAS[package]}' brings it"
    return f"the package that fsspec needs for {scheme}:// is not installed"


def _why(error: BaseException) -> str:
    chain = list(_chain(error))
    code = next(filter(None, map(_code, chain)), "")
    return f"{_reason(chain, code)} ({code})" if code else _reason(chain, code)


def _reason(chain: list[BaseException], code: str) -> str:
    # By their names, because none of the stores' packages has to be installed.
    kinds = " ".join(kind.__name__ for link in chain for kind in type(link).__mro__)
    if "Timeout" in kinds:
        return f"no answer within {timing.STORE_CALL_S:.0f} s"
    if code == "401" or re.search(r"Credential|RefreshError|TokenRetrieval|ProfileNotFound", kinds):
        return "no valid credentials were found"
    if "PermissionError" in kinds or str(chain[0]).startswith("Forbidden"):  # so gcsfs says it
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
    """What the store answered, by its own name for it."""
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
