"""Finds the versions of local models, in version directories and single files.

Blocking: call it in worker threads. The layout is that of OpenVINO Model Server,
`<model>/<version>/<files>`. The functions return versions with the path that OpenVINO reads.
"""

import glob
import re
import stat
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

MODEL_SUFFIXES = (".xml", ".onnx", ".tflite", ".pdmodel", ".pb")

_VERSION = re.compile(r"[1-9][0-9]*")


class SourceUnavailable(Exception):
    """Raised when a model's files cannot be read, downloaded or copied; the text has the reason."""


@dataclass(frozen=True, slots=True)
class FoundVersion:
    """The path of a version's model, or the `problem` with it.

    `signature` changes when the files do.
    """

    path: str | Path | None
    signature: Hashable = None
    problem: str = ""
    remote: bool = False
    """Whether the store's files have to be copied to `path` first."""


def find(name: str, source: str, repository: Path) -> dict[int, FoundVersion]:
    """Like `locate`, but includes incomplete versions. Raises SourceUnavailable."""
    path = repository / source
    with translate_os_errors(path):
        if not path.is_dir() or (path / "saved_model.pb").is_file():
            return {n: version_at(file) for n, file in locate(name, source, repository).items()}
        folders = version_directories(path)
    if not folders:
        _no_version(path)
    return {number: version_in(folder) for number, folder in folders}


def version_in(folder: Path) -> FoundVersion:
    """The model in a version's directory."""
    try:
        model = _model_in(folder)
        if model is not None:
            return _readable(model, sorted(_files_in(folder)))
    except OSError as error:
        return FoundVersion(None, None, f"its directory cannot be read: {in_words(error)}")
    known = ", ".join(MODEL_SUFFIXES)
    return FoundVersion(None, None, f"its directory has no model file ({known})")


def version_at(model: Path) -> FoundVersion:
    """A model outside a version directory: a directory, or a file and others of its stem."""
    if model.is_dir():
        return _readable(model, sorted(_files_in(model)))
    return _readable(model, sorted(model.parent.glob(f"{glob.escape(model.stem)}.*")))


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def _readable(model: Path, files: list[Path]) -> FoundVersion:
    """Opens all files, because OpenVINO does not report which one it could not read."""
    seen = []
    for file in files:
        if file.name.startswith("."):
            continue
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            file.open("rb").close()
        except OSError as error:
            return FoundVersion(None, None, f"{file.name} cannot be read: {in_words(error)}")
        seen.append((str(file), status.st_ino, status.st_size, status.st_mtime_ns))
    return FoundVersion(model, tuple(seen))


def versions_in(directory: Path) -> dict[int, Path]:
    """The versions below `directory`, lowest first, each with the path that OpenVINO reads.

    If a version has several model files, the order of MODEL_SUFFIXES decides, then the order of
    their names. OpenVINO reads a TensorFlow SavedModel as its directory. This does not require
    companion files (`.bin`, `.pdiparams`), because a model without weights has none. It skips
    version directories without a model file; a missing `directory` has no versions. Raises OSError.
    """
    models = {version: _model_in(folder) for version, folder in version_directories(directory)}
    return {version: model for version, model in models.items() if model is not None}


def locate(name: str, source: str, repository: Path) -> dict[int, Path]:
    """The versions of a local model: `source` is a directory of versions or one model file.

    A relative `source` starts at `repository`. A single model file is version 1, and so is a
    SavedModel directory. Raises SourceUnavailable.
    """
    path = repository / source
    with translate_os_errors(path):
        if (path / "saved_model.pb").is_file():
            return {1: path}
        if path.is_dir():
            return versions_in(path) or _no_version(path)
        if not path.is_file():
            raise SourceUnavailable(f"source of model {name} does not exist: {path}")
    if path.suffix not in MODEL_SUFFIXES:
        raise SourceUnavailable(f"{path} is not a model file ({', '.join(MODEL_SUFFIXES)})")
    return {1: as_read(path)}


def version_directories(directory: Path) -> list[tuple[int, Path]]:
    """The directories below `directory` whose names are version numbers; raises OSError."""
    if not directory.is_dir():
        return []
    numbered = ((version_number(entry.name), entry) for entry in directory.iterdir())
    return sorted((number, entry) for number, entry in numbered if number and entry.is_dir())


def version_number(folder: str) -> int | None:
    """The version number that a directory name spells, else None.

    gRPC reports versions as int64, so larger numbers are no versions.
    """
    number = int(folder) if _VERSION.fullmatch(folder) and len(folder) < 20 else 0
    return number if 0 < number < 2**63 else None


def model_name(names: Collection[str]) -> str | None:
    """The model file among the files of a version directory, by their names."""
    for suffix in MODEL_SUFFIXES:
        for name in sorted(names):
            if Path(name).suffix == suffix and not name.startswith("."):
                return name
    return None


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a SourceUnavailable about `path`."""
    try:
        yield
    except OSError as error:
        raise SourceUnavailable(f"{path} cannot be used: {in_words(error)}") from error


def in_words(error: OSError) -> str:
    return (error.strerror or "input or output failed").lower()


def _model_in(folder: Path) -> Path | None:
    name = model_name([file.name for file in folder.iterdir() if file.is_file()])
    return None if name is None else as_read(folder / name)


def as_read(file: Path) -> Path:
    """The path that OpenVINO reads for a model file: the directory for a SavedModel."""
    return file.parent if file.name == "saved_model.pb" else file


def _no_version(directory: Path) -> NoReturn:
    empty = ", ".join(str(version) for version, _ in version_directories(directory))
    raise SourceUnavailable(
        f"directory {directory} has no version directory with a model file"
        + (f" (without one: {empty})" if empty else "")
    )
