"""`lynx run`: all stages of one recipe, each from where it was left."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lynx.cli.registry import COMMANDS, Options, Result, command, option, parse, parser_of, show
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
    for name, command_name, words in planned(recipe, options.data, out):
        if name == "guide" and (out / GUIDANCE).is_file() and not options.check:
            results[name] = {"written": str(out / GUIDANCE)}
            continue
        try:
            results[name] = _run(command_name, [*words, *(["--check", "--json"] if options.check else [])])
        except LynxError as error:
            if not options.check:
                raise
            problems.append(f"{name}: {error}")
    if problems:
        show(results)
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


def planned(recipe: Mapping[str, Any], data: Path, out: Path) -> Iterator[tuple[str, str, list[str]]]:
    """What is run: a name for it, the command, and what a person would type behind that."""
    shared = {name: recipe[name] for name in SHARED if name in recipe}
    guidance, adapter = str(out / GUIDANCE), str(out / "adapter")
    more: dict[str, dict[str, Any]] = {
        "guide": {"out": guidance},
        "align": {"out": adapter, "guidance": guidance, "modality": recipe.get("modality")},
        "tune": {"out": adapter, "modality": [recipe.get("modality")]},
    }
    for stage in (each for each in ("guide", "align", "tune") if each in recipe):
        values = shared | filled(recipe[stage], data=data) | more[stage]
        yield stage, stage, _words(stage, values)
    for benchmark in _several(recipe.get("eval", {}).get("benchmark", ())):
        values = shared | filled(recipe["eval"], data=data, benchmark=benchmark)
        del values["benchmark"]
        folder = out / benchmark
        values |= {"adapter": [adapter], "out": str(folder), "resume": folder.exists(), "card": True}
        yield f"eval {benchmark}", "eval", [benchmark, *_words("eval", values)]


def filled(value: Any, **places: Any) -> Any:
    """A value with these in the place of {data}, {benchmark}."""
    if isinstance(value, Mapping):
        return {key: filled(each, **places) for key, each in value.items()}
    if isinstance(value, list):
        return [filled(each, **places) for each in value]
    for name, place in places.items():
        value = value.replace(f"{{{name}}}", str(place)) if isinstance(value, str) else value
    return value


def _several(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _words(name: str, values: Mapping[str, Any]) -> list[str]:
    return as_words(parser_of(COMMANDS[name]), values, f"{name} of the recipe")


def _run(name: str, words: list[str]) -> Any:
    return COMMANDS[name].run(parse(COMMANDS[name], words))
