"""Renders the settings as Markdown tables, from the fields of pydantic models."""

from collections.abc import Iterator
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from deployments.settings.problems import nested_model

_NAMES: dict[Any, str] = {
    bool: "true or false",
    float: "number",
    int: "integer",
    str: "text",
    NoneType: "empty",
    str | int | float | bool: "text, number or true or false",
    str | int | float | bool | dict[str, Any]: "text, number, true or false or mapping",
}


def render(model: type[BaseModel]) -> str:
    """Renders a table for the model and for each model in its fields, in the fields' order."""
    return "\n\n".join(_tables(model, ""))


def _tables(model: type[BaseModel], prefix: str) -> Iterator[str]:
    lines = [
        _first_line(model),
        "",
        "| setting | type | default | meaning |",
        "|---|---|---|---|",
    ]
    lines += [_row(prefix + name, field) for name, field in model.model_fields.items()]
    yield "\n".join(lines)
    for name, field in model.model_fields.items():
        inner = nested_model(field.annotation)
        if inner is not None:
            brackets = "[]" if "list" in _spell(field.annotation) else ""
            yield from _tables(inner, f"{prefix}{name}{brackets}.")


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n")[0]


def _row(path: str, field: FieldInfo) -> str:
    cells = [f"`{path}`", _spell(field.annotation), _default(path, field), field.description or ""]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(path: str, field: FieldInfo) -> str:
    if field.is_required():
        return "*required*"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return "see below"
    if value in (None, [], {}):
        return "none"
    if isinstance(value, dict):
        return "`" + ", ".join(f"{key}: {entry}" for key, entry in value.items()) + "`"
    if path.endswith("_bytes"):
        return f"`{value}` ({value / 2**20:g} MiB)"
    return f"`{value}`"


def _spell(annotation: Any) -> str:
    """The type in words for operators."""
    arguments = get_args(annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        return _spell(arguments[0])
    if annotation is Any:
        return "anything"
    if annotation in _NAMES:
        return _NAMES[annotation]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    if origin is Literal:
        return " or ".join(f"`{argument}`" for argument in arguments)
    if origin is list:
        entry = _spell(arguments[0])
        return "list of mappings" if entry == "mapping" else f"list of {entry}"
    if origin is dict:
        return f"mapping of {_spell(arguments[0])} to {_spell(arguments[1])}"
    return " or ".join(map(_spell, arguments))
