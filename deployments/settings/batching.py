"""How requests of one shape become batches."""

from typing import Literal

from pydantic import Field, model_validator

from deployments.settings.source import AtLeastOne, Group


class Batching(Group):
    """How requests of one shape are run together."""

    max_rows: AtLeastOne = Field(
        default=32,
        description="Maximum rows (along the first dimension) of a batch. More rows raise the "
        "throughput under load, and the memory and time of a batch; 1 runs every request by "
        "itself.",
    )
    stacking: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="How a batch runs. `always`: as one tensor; `never`: as infer requests side "
        "by side; `auto`: whichever was faster when the model was loaded. Models whose results "
        "change when rows are stacked are never stacked.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> "Batching":
        if self.max_rows == 1 and self.stacking == "always":
            raise ValueError("stacking 'always' needs max_rows above 1, max_rows 1 stacks nothing")
        return self
