"""The model card of an adapter, made from its `lynx_config.json`: what the Hub shows, and how to load it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lynx import hub, modalities
from lynx.backbones import CATALOG
from lynx.modalities.video import Video

if TYPE_CHECKING:
    from lynx.adapters.format import Adapter

COMMAND = "command"
"""Key in the metrics of the command that measured the values beside it."""
TABLE = "table"
"""Key in the metrics of rows by number, which the card shows as a table; all have the first one's columns."""

GAP = "\n\n"


def model_card(adapter: "Adapter", where: str, curves: Sequence[str] = ()) -> str:
    """The README of an adapter. where: the folder or Hub id that it can be loaded from.

    curves: pictures of its training, as paths beside the card.
    """
    source = str(adapter.backbone.get("source") or "")
    # an adapter is of no use without its backbone, so it carries the backbone's license where that is known
    license = next((row.license for row in CATALOG.values() if row.source == source), "apache-2.0")
    fields: dict[str, Any] = {"library_name": "lynx", "pipeline_tag": "video-text-to-text"}
    fields["tags"] = ["lynx", "video-llm", "lora", adapter.modality]
    known = license in ("apache-2.0", "mit")  # those of the catalog that the Hub has a name for
    fields |= {"license": license} if known else {"license": "other", "license_name": license}
    if on_hub := hub.parse_id(source):
        fields |= {"base_model": on_hub[0], "base_model_relation": "adapter"}
    sense = adapter.name if adapter.name.isidentifier() else adapter.modality
    modality = modalities.find(adapter.modality) or Video  # a card needs no sense that is installed here
    pictures = "".join(f"![The run of {Path(each).parent.name}]({each}){GAP}" for each in curves)
    file, question = modality.example_file, modality.example_questions[0]
    return hub.model_card(
        fields,
        f"""# {adapter.name}

Gives `{source}` a new sense: **{adapter.modality}**. Load it with

```python
import lynx

model = lynx.load("{source}", adapters=["{where}"])
chat = model.chat(video="clip.mp4", {sense}="{file}")
print(chat.ask("{question}"))
print(chat.evidence.attribution().totals)  # how much likelier each sense makes the answer, in nats

with model.using():                 # without the adapter: the stock model, bit for bit
    print(model.chat(video="clip.mp4").ask("{question}"))
```

## Measured

{_measured(adapter.metrics)}

## Rendered

{_json(adapter.rendering)}

## Trained

{_trained(adapter.training)}{pictures}{_json(adapter.training)}
""",
    )


def _measured(metrics: Mapping[str, Any]) -> str:
    """The metrics as lists, each group under the command that measured it."""
    own = {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}
    groups: dict[str, Mapping[str, Any]] = {"": own}
    groups |= {f"### {key}\n\n": value for key, value in metrics.items() if isinstance(value, Mapping)}
    texts = []
    for title, figures in groups.items():
        if figures:
            command = f"    {figures[COMMAND]}\n\n" if COMMAND in figures else ""
            listed = {key: value for key, value in figures.items() if key not in (COMMAND, TABLE)}
            lines = "\n".join(f"- {key}: {value}" for key, value in listed.items())
            texts.append(title + command + lines + _table(figures.get(TABLE)))
    return "\n\n".join(texts) if metrics else "Not measured yet."


def _table(rows: Any) -> str:
    """Rows as a table of Markdown; "" where there are none."""
    found = [row for row in rows.values() if isinstance(row, Mapping)] if isinstance(rows, Mapping) else []
    if not found:
        return ""
    columns = list(found[0])
    cells = [columns, ["---"] * len(columns), *([str(row.get(key, "")) for key in columns] for row in found)]
    lines = (" | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) for row in cells)
    return GAP + "\n".join(f"| {line} |" for line in lines)


def _trained(training: Mapping[str, Any]) -> str:
    """A paragraph on how much it was tuned on, and what that did to the backbone; "" where it is not said."""
    tune = training.get("tune")
    tune = tune if isinstance(tune, Mapping) else {}
    parts = []
    if "questions" in tune:
        text = "Tuned on {examples} clips with {questions} questions, in {steps} steps of {batch} clips; "
        parts.append(_filled(text + "{held_out} clips were held out.", tune))
    text = "With the sense on, {agreement:.0%} of {n} general questions get the answer that the backbone "
    text += "gives without it, and its answers are {nats:+.2f} nats less probable."
    parts.append(_filled(text, tune.get("damage")))
    said = " ".join(part for part in parts if part)
    return said and said + GAP


def _filled(text: str, values: Any) -> str:
    """A text with its figures; "" where one of them is no number, or none was measured."""
    items = values.items() if isinstance(values, Mapping) else ()
    numbers = {key: value for key, value in items if isinstance(value, int | float)}
    if not numbers.get("n", 1):
        return ""
    try:
        return text.format(**numbers)
    except (KeyError, ValueError):
        return ""


def _json(values: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(dict(values), indent=2)}\n```"
