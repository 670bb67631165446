"""The recipe's commands; each prints a JSON object."""

import argparse
import json
import sys
from pathlib import Path

from lynx.errors import LynxError

FOLDER = Path("runs/recordings")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m recipes.real_sounds", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)

    voices = commands.add_parser("voices", help="synthesize further speakers of the digits (needs espeak-ng)")
    voices.add_argument("out", type=Path, help="the folder they are written to")
    voices.add_argument("--voices", type=int, default=125, help="how many (default: %(default)s)")
    voices.add_argument("--seed", type=int, default=0, help="of their choice (default: %(default)s)")

    train = commands.add_parser("train", help="stages 1 to 3 on all recordings but those held out")
    train.add_argument("--out", type=Path, required=True, help="where the adapter is written")
    evaluate = commands.add_parser("evaluate", help="ask a chat about the recordings held out")
    evaluate.add_argument("--adapter", type=Path, default=Path("adapters/sounds"))
    rounds = commands.add_parser("crossvalidate", help="train and evaluate anew with each fold held out")
    rounds.add_argument("--rounds", type=int, help="only the first ones")
    rounds.add_argument("--plot", type=Path, help="where the confusion matrices are drawn, a PNG")
    probe = commands.add_parser("probe", help="what a linear probe reads from the encoder's tokens")
    probe.add_argument("--adapter", type=Path, help="encode through its vision LoRA, not the bare encoder")
    probe.add_argument("--renderings", nargs="+", metavar="NAME", help="of those in probe.py (default: all)")
    probe.add_argument("--moments", type=int, default=8)
    probe.add_argument("--takes", type=int, help="recordings of every name and fold, at most")
    for each in (train, evaluate, rounds, probe):
        each.add_argument("--esc10", type=Path, help="folder of ESC-10 or ESC-50")
        each.add_argument("--digits", type=Path, help="folder of the Free Spoken Digit Dataset")
    for each in (train, rounds):
        each.add_argument("--voices", type=Path, help="folder of further speakers, in training alone")
    for each in (train, evaluate):
        each.add_argument(
            "--held-out", nargs="+", default=[], metavar="FOLD", help="folds of ESC-10, speakers of digits"
        )

    options = parser.parse_args(argv)
    collections = {name: getattr(options, name, None) for name in ("esc10", "digits")}
    paths = {name: path for name, path in collections.items() if path}
    if options.command != "voices" and not paths:
        parser.error("give --esc10 or --digits, or both")
    try:
        print(json.dumps(_run(options, paths), indent=2, default=str))
    except LynxError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, paths: dict[str, Path]) -> dict[str, object]:
    import torch

    from lynx.errors import DataError
    from recipes.real_sounds import crossvalidation, probe
    from recipes.real_sounds.data import folds_of, open_recordings
    from recipes.real_sounds.voices import speak

    torch.set_num_threads(1)
    if options.command == "voices":
        return {"written": speak(options.out, options.voices, options.seed)}
    if options.command == "probe":
        names = options.renderings or list(probe.RENDERINGS)
        if unknown := sorted(set(names).difference(probe.RENDERINGS)):
            raise DataError(f"there is no rendering {unknown[0]!r}; there are {', '.join(probe.RENDERINGS)}")
        accuracy = probe.compare(paths, options.adapter, names, options.moments, options.takes)
        return {"adapter": options.adapter, "moments": options.moments, "accuracy": accuracy}
    if options.command == "crossvalidate":
        count, found = crossvalidation.cross_validate(paths, options.voices, FOLDER, options.rounds)
        if options.plot:
            crossvalidation.draw(found, options.plot)
        return {"rounds": count, **found}

    there = {name: folds_of(name, path) for name, path in paths.items()}
    if unknown := sorted(set(options.held_out).difference(*there.values())):
        raise DataError(f"no collection has {unknown[0]!r} to hold out; there are {there}")
    held = {name: [fold for fold in options.held_out if fold in folds] for name, folds in there.items()}
    if options.command == "train":
        paths |= {"voices": options.voices} if options.voices else {}
        known = {n: open_recordings(n, path, held_out=held.get(n, ())) for n, path in paths.items()}
        guidance = crossvalidation.reference(options.out)
        model, report = crossvalidation.train(known, guidance, options.out, options.out / "streams")
        crossvalidation.know_recordings(model, paths, held, options.out)
        return report
    import lynx
    from lynx.evaluation.recordings import evaluate
    from recipes.real_sounds.talking import understood

    model, found = lynx.load(adapters=[options.adapter]), {}
    for name, path in paths.items():
        if held[name] or not options.held_out:  # with no --held-out, reading says what there is to hold out
            recordings = open_recordings(name, path, held_out=held[name], split="test")
            found[name] = {**evaluate(model, recordings), "as_people_ask": understood(model, recordings)}
    return found


if __name__ == "__main__":
    sys.exit(main())
