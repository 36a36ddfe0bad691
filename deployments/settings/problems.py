"""Problems of a configuration: a readable line for each mistake, with the key's path."""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

KeyPath: TypeAlias = tuple[str | int, ...]
"""Keys and list positions from the top of a document to one of its values."""

# What a value must be, by pydantic's name for the mistake; other mistakes keep pydantic's text.
_MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "callable_type": "an import path",
    "dict_type": "a mapping",
    "enum": "{expected}",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_parsing_size": "a smaller integer",
    "int_type": "an integer",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a mapping",
    "string_type": "text",
}


@dataclass(frozen=True)
class Problem:
    """One mistake in a document: where it stands and what is wrong there."""

    path: KeyPath
    text: str

    def under(self, parent: KeyPath) -> "Problem":
        """The same mistake in a document that holds this one at `parent`."""
        return Problem(parent + self.path, self.text)

    def __str__(self) -> str:
        return f"{spell(self.path)}: {self.text}" if self.path else self.text


def spell(path: KeyPath) -> str:
    """The path in its usual notation: `models[0].shape`."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        elif re.fullmatch(r"[\w-]+", part):
            text += f".{part}"
        else:
            text += f"[{part!r}]"
    return text.removeprefix(".")


def unknown_key(key: object, known: Iterable[str]) -> str:
    """The text for a key that nothing reads, with the closest known key."""
    return f"unknown setting, {suggestion(str(key), known)}"


def suggestion(name: str, known: Iterable[str]) -> str:
    """The hint in a text about an unknown name: the closest known name, or all known names."""
    names = sorted(known)
    close = closest(name, names)
    return f"did you mean '{close}'?" if close else f"known here: {', '.join(names)}"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is closest to a mistyped one."""
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1)), None)


def must_be(expected: str, value: object) -> str:
    """The text for a value of the wrong type."""
    quotes = ": put it in quotes" if expected == "text" and not _holds_others(value) else ""
    return f"must be {expected}, not {_shown(value)}{quotes}"


def nested_model(annotation: Any) -> type[BaseModel] | None:
    """The pydantic model within a field's type: `M` for `list[dict[str, Any] | M] | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    models = map(nested_model, get_args(annotation))
    return next((model for model in models if model is not None), None)


def from_validation(
    error: ValidationError, model: type[BaseModel], given: object
) -> Iterator[Problem]:
    """pydantic's errors about `given`, one for each place.

    Where a value may have several types, pydantic reports one error per type. These become one
    line, or none if another line is about something inside the value.
    """
    places: dict[KeyPath, list[ErrorDetails]] = {}
    for detail in error.errors(include_url=False):
        places.setdefault(_place(detail, given), []).append(detail)
    for path, details in places.items():
        if not any(len(path) < len(other) and path == other[: len(path)] for other in places):
            yield Problem(path, _text(details, path, model))


def _place(detail: ErrorDetails, given: Any) -> KeyPath:
    """The error's location without the names of a union's types, which are not document keys."""
    path: KeyPath = ()
    for part in detail["loc"]:
        if isinstance(given, Mapping) and part in given:
            path += (str(part),)
        elif isinstance(given, list) and isinstance(part, int):
            path += (part,)
        else:
            continue
        given = given[part]
    return (*path, detail["loc"][-1]) if detail["type"] == "missing" else path


def _text(details: list[ErrorDetails], path: KeyPath, model: type[BaseModel]) -> str:
    expected, sentences = [], []
    for detail in details:
        kind, context = detail["type"], detail.get("ctx", {})
        if kind in _MUST_BE:
            expected.append(_MUST_BE[kind].format(**context))
        elif kind == "missing":
            sentences.append("required setting is missing")
        elif kind in ("extra_forbidden", "invalid_key"):
            sentences.append(unknown_key(path[-1] if path else "", _fields_at(model, path[:-1])))
        elif kind == "too_short":
            sentences.append(f"needs at least {context['min_length']} entries")
        else:
            sentences.append(" ".join(str(context.get("error", detail["msg"])).split()))
    if expected:
        sentences.insert(0, must_be(_either(expected), details[0]["input"]))
    return "; ".join(sentences)


def _fields_at(model: type[BaseModel] | None, path: KeyPath) -> Iterable[str]:
    for part in path:
        field = model.model_fields.get(part) if model and isinstance(part, str) else None
        if field is not None:
            model = nested_model(field.annotation)
    return model.model_fields if model else ()


def _either(choices: list[str]) -> str:
    distinct = list(dict.fromkeys(choices))
    return " or ".join([", ".join(distinct[:-1]), distinct[-1]] if distinct[1:] else distinct)


def _holds_others(value: object) -> bool:
    return value is None or isinstance(value, Mapping | list)


def _shown(value: object) -> str:
    """The value as YAML writes it, shortened."""
    if value is None:
        return "empty"
    if _holds_others(value):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
