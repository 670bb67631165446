"""`lynx eval recordings`: recordings with a label each, which a sense names."""

from lynx.cli.registry import (
    Options,
    Parser,
    Result,
    adapter_argument,
    command,
    data_arguments,
    load_model,
    model_arguments,
    open_examples,
    progress,
)


def _arguments(parser: Parser) -> None:
    data_arguments(parser, default=None)
    adapter_argument(parser)
    model_arguments(parser)


@command(
    "eval recordings",
    _arguments,
    "lynx eval recordings --data labelled ESC-50-master --held-out 5 --adapter adapters/sounds --json",
)
def _eval_recordings(options: Options) -> Result:
    """Ask a chat what the recordings held out, or all, are: accuracy, chance, what is taken for what."""
    from lynx.evaluation.recordings import evaluate

    # without --held-out all of the folder, which then should have had no part in training
    examples = open_examples(options, split="test" if options.held_out else "train")
    model = load_model(options, "sounds")
    with progress("recordings") as tell:
        return {"held_out": options.held_out, **evaluate(model, examples, tell)}
