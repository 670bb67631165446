"""A hosted app that is really served, and its HTTP API as a stranger uses it."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import checkpoints
import httpx
from checkpoints import random_adapter

import lynx
from lynx.adapters.saving import save_adapter
from lynx.ui import launch
from lynx.ui.engine import Engine
from lynx.ui.host_policy import host_policy
from lynx.ui.types import Setup


@dataclass
class Served:
    """The app's server, and what a test looks into beside it."""

    blocks: Any
    engine: Engine
    url: str
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=120))

    def function(self, name: str) -> Any:
        """A handler's function in Gradio's table: the first of that name."""
        return next(each for each in self.blocks.fns.values() if each.name == name)

    def call(self, name: Any, values: dict[str, Any] | list[Any], session: str | None = None) -> Any:
        """What a handler, or that of this name, answers: its outputs' data, or the error's text.

        values: by the element's id or label, or in order; what is not given is null.
        """
        function = self.function(name) if isinstance(name, str) else name
        session = session or uuid4().hex
        data = values
        if isinstance(values, dict):
            names = [getattr(each, "elem_id", None) or getattr(each, "label", "") for each in function.inputs]
            assert set(values) <= set(names), names
            data = [values.get(each) for each in names]
        asked = {"data": data, "fn_index": function._id, "session_hash": session}
        joined = self.client.post(f"{self.url}/gradio_api/queue/join", json=asked)
        if joined.status_code != 200:
            return joined.text
        with self.client.stream(
            "GET", f"{self.url}/gradio_api/queue/data", params={"session_hash": session}
        ) as told:
            for line in told.iter_lines():
                if line.startswith("data:"):
                    message = json.loads(line[5:])
                    if message["msg"] == "process_completed":
                        output = message["output"]
                        return output["data"] if message["success"] else output["error"]
        raise AssertionError("the stream ended without an answer")

    def upload(self, path: Path) -> dict[str, Any]:
        """An uploaded file, as a component takes it."""
        files = {"files": (path.name, path.read_bytes())}
        sent = self.client.post(f"{self.url}/gradio_api/upload", files=files)
        assert sent.status_code == 200, sent.text
        return file(sent.json()[0])


def file(path: Any) -> dict[str, Any]:
    return {"path": path, "orig_name": "a.mp4", "meta": {"_type": "gradio.FileData"}}


@contextmanager
def hosted(folder: Path, senses=("audio", "depth"), **options):
    """A small model with an adapter for each sense, served to strangers."""
    model = lynx.load(checkpoints.llava_onevision(folder / "backbone"))
    for sense in senses:
        random_adapter(model, sense, sense)
        save_adapter(model, sense, folder / "adapters" / sense)
    adapters = tuple(str(folder / "adapters" / sense) for sense in senses)
    given = Setup(str(folder / "backbone"), adapters=adapters)
    variables = {"LYNX_HOSTED": "1", "LYNX_BACKBONES": "lynx-tiny"}
    engine = Engine(2, host_policy("127.0.0.1", variables, given, folder / "adapters"))
    blocks = launch(
        port=None, setup=given, examples=[], engine=engine, block=False, variables=variables, **options
    )
    try:
        yield Served(blocks, engine, blocks.local_url.rstrip("/"))
    finally:
        blocks.close(verbose=False)
        engine.close()
