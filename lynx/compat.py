"""What leans on the insides of other libraries; each has a canary test."""

from typing import Any

PEFT_PREFIX = "base_model.model."
"""What PEFT's files put before a module's name."""


def accept_fewer_inputs(blocks: type[Any]) -> type[Any]:
    """`gradio.Blocks`, whose endpoints take what a client leaves out at the end as not given.

    Gradio refuses a call with too few values in `validate_inputs`, before it looks at defaults. The class is
    an argument, so that nothing here imports Gradio.
    """

    class LenientBlocks(blocks):
        def validate_inputs(self, block_fn: Any, inputs: list[Any]) -> None:
            inputs.extend([None] * (len(block_fn.inputs) - len(inputs)))
            super().validate_inputs(block_fn, inputs)

    return LenientBlocks
