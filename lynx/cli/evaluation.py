"""`lynx eval`: accuracy in the miniature world and on labeled recordings."""

from pathlib import Path

from lynx.cli.registry import (
    Options,
    Result,
    adapter_option,
    command,
    count,
    data_options,
    load_model,
    model_options,
    open_examples,
    option,
    progress,
)


@command(
    "eval world",
    "lynx eval world --modality audio --n 1000 --seed 7 --json",
    option(
        "--modality",
        metavar="SENSE",
        help="the sense that is measured; all: every one, alone and together; left out: the backbone alone",
    ),
    option("--n", type=count, default=1000, help="questions in every cell (default: 1000)"),
    option("--seed", type=int, default=0, help="draws clips never seen in training (default: 0)"),
    option(
        "--cache", type=Path, metavar="DIR", help="where the clips are kept; default: ~/.cache/lynx/world"
    ),
    adapter_option,
    model_options(),
)
def _eval_world(options: Options) -> Result:
    """Measure a sense in the miniature world: accuracy with it, without it, by chance, and on video alone."""
    import torch

    from lynx.world.combinations import evaluate_combinations
    from lynx.world.evaluation import MEASURED, evaluate, evaluate_backbone

    torch.set_num_threads(1)  # beside two drawing processes, more threads cost more than they bring
    sense = options.modality
    model = load_model(options, *(MEASURED if sense == "all" else [sense] if sense else []))
    with progress("clips") as tell:
        if sense is None:
            return evaluate_backbone(model, options.n, options.seed, tell, options.cache)
        if sense == "all":
            return evaluate_combinations(model, options.n, options.seed, tell, options.cache)
        return evaluate(model, sense, options.n, options.seed, tell, options.cache)


@command(
    "eval recordings",
    "lynx eval recordings --data labelled ESC-50-master --held-out 5 --adapter adapters/sounds --json",
    data_options(default=None),
    adapter_option,
    model_options(),
)
def _eval_recordings(options: Options) -> Result:
    """Ask a chat what the recordings held out, or all, are: accuracy, chance, what is taken for what."""
    from lynx.evaluation.recordings import evaluate

    # without --held-out the whole folder, which should then not have been trained on
    examples = open_examples(options, split="test" if options.held_out else "train")
    model = load_model(options, "sounds")
    with progress("recordings") as tell:
        return {"held_out": options.held_out, **evaluate(model, examples, tell)}
