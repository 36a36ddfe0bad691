from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from deployments.settings.markdown import render


class Inner(BaseModel):
    """Inner things.

    Not shown.
    """

    cache_bytes: int = Field(default=3 * 2**20, description="Memory | for caching.")


class Outer(BaseModel):
    """Outer things."""

    name: str = Field(description="What it is called.")
    mode: Literal["a", "b"] | Annotated[int, Field(ge=1)] = Field(default="a", description="How.")
    values: dict[str, str | int | float | bool] = Field(default_factory=dict, description="What.")
    options: dict[str, str | int | float | bool | dict[str, Any]] = Field(
        default_factory=dict, description="Which."
    )
    alone: Inner = Field(default_factory=Inner, description="One.")
    several: str | list[Inner] = Field(default="x", description="Many.")
    maybe: float | None = Field(default=None, description="Perhaps.")


def test_each_model_has_a_table_with_the_path_type_default_and_meaning_of_its_fields() -> None:
    expected = """\
Outer things.

| setting | type | default | meaning |
|---|---|---|---|
| `name` | text | *required* | What it is called. |
| `mode` | `a` or `b` or integer | `a` | How. |
| `values` | mapping of text to text, number or true or false | none | What. |
| `options` | mapping of text to text, number, true or false or mapping | none | Which. |
| `alone` | mapping | see below | One. |
| `several` | text or list of mappings | `x` | Many. |
| `maybe` | number or empty | none | Perhaps. |

Inner things.

| setting | type | default | meaning |
|---|---|---|---|
| `alone.cache_bytes` | integer | `3145728` (3 MiB) | Memory \\| for caching. |

Inner things.

| setting | type | default | meaning |
|---|---|---|---|
| `several[].cache_bytes` | integer | `3145728` (3 MiB) | Memory \\| for caching. |"""
    assert expected == render(Outer)
