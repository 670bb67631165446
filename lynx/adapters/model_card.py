"""The model card of an adapter: what the Hub shows of it, and how it is loaded. From `lynx_config.json`."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lynx import hub, modalities
from lynx.backbones import CATALOG
from lynx.modalities.video import Video

if TYPE_CHECKING:
    from lynx.adapters.format import Adapter

_KNOWN_TO_THE_HUB = ("apache-2.0", "mit")
COMMAND = "command"
"""The metric that says how the others beside it were measured."""


def model_card(adapter: "Adapter", where: str) -> str:
    """The README of an adapter. where: the folder or Hub id that it can be loaded from."""
    source = str(adapter.backbone.get("source") or "")
    sense = adapter.name if adapter.name.isidentifier() else adapter.modality
    modality = modalities.find(adapter.modality) or Video  # a card needs no sense that is installed here
    file, question = modality.example_file, modality.example_questions[0]
    return f"""---
library_name: lynx
{_licence(source)}
{_base_model(source)}tags: [lynx, video-llm, lora, {adapter.modality}]
pipeline_tag: video-text-to-text
---
# {adapter.name}

Gives `{source}` a new sense: **{adapter.modality}**. Load it with

```python
import lynx

model = lynx.load("{source}", adapters=["{where}"])
chat = model.chat(video="clip.mp4", {sense}="{file}")
print(chat.ask("{question}"))
print(chat.evidence.share())        # how much the answer rests on each sense

with model.using():                 # without the adapter: the stock model, bit for bit
    print(model.chat(video="clip.mp4").ask("{question}"))
```

## Measured

{_measured(adapter.metrics)}

## Rendered

{_json(adapter.rendering)}

## Trained

{_json(adapter.training)}
"""


def _licence(source: str) -> str:
    """An adapter is bound to its backbone, so it carries the backbone's licence where that is known."""
    licence = next((row.licence for row in CATALOG.values() if row.source == source), "apache-2.0")
    return (
        f"license: {licence}" if licence in _KNOWN_TO_THE_HUB else f"license: other\nlicense_name: {licence}"
    )


def _base_model(source: str) -> str:
    parsed = hub.parse_id(source)
    return f"base_model: {parsed[0]}\nbase_model_relation: adapter\n" if parsed else ""


def _measured(metrics: Mapping[str, Any]) -> str:
    """Figures, each group under the command that made it."""
    if not metrics:
        return "Not measured yet."
    own = {key: value for key, value in metrics.items() if not isinstance(value, Mapping)}
    groups = [own, *(value for value in metrics.values() if isinstance(value, Mapping))]
    titles = ["", *(f"### {key}\n\n" for key, value in metrics.items() if isinstance(value, Mapping))]
    return "\n\n".join(title + _group(group) for title, group in zip(titles, groups, strict=True) if group)


def _group(figures: Mapping[str, Any]) -> str:
    command = f"    {figures[COMMAND]}\n\n" if COMMAND in figures else ""
    return command + "\n".join(f"- {key}: {value}" for key, value in figures.items() if key != COMMAND)


def _json(values: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(dict(values), indent=2)}\n```"
