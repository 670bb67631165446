"""`lynx run`: all stages of one recipe, each from where it was left."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lynx.cli.registry import COMMANDS, Options, Result, command, option
from lynx.cli.run_config import as_words, read_yaml
from lynx.errors import DataError, LynxError

STAGES = ("guide", "align", "tune", "eval")
GUIDANCE = "guidance.safetensors"
SHARED = ("backbone", "precision", "device")
"""Keys of a recipe that all its stages get."""


@command(
    "run",
    "lynx run recipes/paper/avqa-0.5b.yaml --data AVQA --out runs/avqa",
    option("recipe", type=Path, metavar="RECIPE", help="YAML with the sections guide, align, tune and eval"),
    option("--data", type=Path, required=True, metavar="DIR", help="what {data} in the recipe stands for"),
    option("--out", type=Path, metavar="PATH", help="where all is written (default: runs/ and its name)"),
    option(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="another value, such as backbone=lynx-tiny or tune.steps=100; repeatable",
    ),
    option("--check", action="store_true", help="look at the data of every stage; train nothing"),
)
def _recipe(options: Options) -> Result:
    """Guidance, alignment, tuning and evaluation as a recipe says; a run that was ended goes on."""
    recipe = read_recipe(options.recipe, options.set)
    out = options.out or Path("runs") / options.recipe.stem
    results: Result = {"recipe": str(options.recipe), "about": recipe.get("about", "")}
    problems = []
    for stage in (each for each in STAGES if each in recipe):
        if stage == "guide" and (out / GUIDANCE).is_file() and not options.check:
            results[stage] = {"written": str(out / GUIDANCE)}
            continue
        try:
            results[stage] = _run_stage(stage, recipe, options.data, out, options.check)
        except LynxError as error:
            if not options.check:
                raise
            problems.append(f"{stage}: {error}")
    if problems:
        raise DataError("; ".join(problems))
    return results


def read_recipe(path: Path, changes: list[str]) -> dict[str, Any]:
    """A recipe with the changes of `--set`. Raises: DataError: not of that form."""
    import yaml

    recipe = read_yaml(path)
    for change in changes:
        name, sign, text = change.partition("=")
        *sections, last = name.split(".")
        if not sign or len(sections) > 1:
            raise DataError(f"--set {change}: expected NAME=VALUE, such as tune.steps=100")
        place = recipe.setdefault(sections[0], {}) if sections else recipe
        place[last] = yaml.safe_load(text)
    known = {"about", "modality", *SHARED, *STAGES}
    if unknown := sorted(recipe.keys() - known):
        raise DataError(f"{path} has {', '.join(unknown)}; a recipe can have {', '.join(sorted(known))}")
    for stage in recipe.keys() & set(STAGES):
        if not isinstance(recipe[stage], dict):
            raise DataError(f"{path}: {stage} is {recipe[stage]!r}, expected its options by name")
    return recipe


def stage_words(stage: str, recipe: Mapping[str, Any], data: Path, out: Path) -> tuple[str, list[str]]:
    """The command of a stage and what a person would type behind it."""
    from lynx.cli.main import parser_of

    values = {name: recipe[name] for name in SHARED if name in recipe} | _filled(recipe[stage], data)
    name, first = stage, []
    if stage == "guide":
        values["out"] = str(out / GUIDANCE)
    else:
        values["out"] = str(out / "adapter")
    if stage == "align":
        values |= {"guidance": str(out / GUIDANCE), "modality": recipe["modality"]}
    if stage == "tune":
        values["modality"] = [recipe["modality"]]
    if stage == "eval":
        benchmark = values.pop("benchmark")
        values |= {"adapter": [str(out / "adapter")], "out": str(out / benchmark)}
        first = [benchmark]
        values["resume"] = (out / benchmark).exists()
    return name, [*first, *as_words(parser_of(COMMANDS[name]), values, f"{stage} of the recipe")]


def _filled(value: Any, data: Path) -> Any:
    """A value with the folder in the place of {data}."""
    if isinstance(value, Mapping):
        return {key: _filled(each, data) for key, each in value.items()}
    if isinstance(value, list):
        return [_filled(each, data) for each in value]
    return value.replace("{data}", str(data)) if isinstance(value, str) else value


def _run_stage(stage: str, recipe: Mapping[str, Any], data: Path, out: Path, check: bool) -> Any:
    from lynx.cli.main import parse

    name, words = stage_words(stage, recipe, data, out)
    options = parse(COMMANDS[name], [*words, *(["--check", "--json"] if check else [])])
    return COMMANDS[name].run(options)
