"""A visitor of the app without a browser: the page's components, their events, and what follows from them.

It reads the page's own description and calls the server as the page does: a handler's outputs become values
of components, events that follow one another follow, and a state that has changed fires its event.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from gradio_client.utils import apply_diff

TIMEOUT = 600.0


class Visitor:
    """One visitor's page. url: of the app."""

    def __init__(self, url: str) -> None:
        self.client = httpx.Client(base_url=url, timeout=TIMEOUT)
        self.session = uuid4().hex
        config = self.client.get("/config").json()
        self.events = config["dependencies"]
        props = {each["id"]: each["props"] for each in config["components"]}
        self.values = {component: prop.get("value") for component, prop in props.items()}
        self.ids = {prop["elem_id"]: component for component, prop in props.items() if prop.get("elem_id")}
        self.errors: list[str] = []
        for event in self.events:
            if any(name == "load" for _, name in event["targets"]):
                self._run(event)

    def __getitem__(self, name: str) -> Any:
        """The value of the component with this element id."""
        return self.values[self.ids[name]]

    def set(self, name: str, value: Any) -> None:
        """What a person types or chooses; `fire` says that it was done."""
        self.values[self.ids[name]] = value

    def fire(self, name: str, what: str, data: Any = None) -> None:
        """An event of a component, and all that follows from it."""
        target = [self.ids[name], what]
        for event in self.events:
            if target in event["targets"]:
                self._run(event, data)

    def upload(self, path: Path) -> dict[str, Any]:
        """A file as a component takes it."""
        sent = self.client.post("/gradio_api/upload", files={"files": (path.name, path.read_bytes())})
        return {"path": sent.json()[0], "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}

    def close(self) -> None:
        """Leave."""
        self.client.close()

    def _run(self, event: dict[str, Any], data: Any = None) -> None:
        changed: list[int] = []
        succeeded = True
        if event["backend_fn"]:
            succeeded, changed = self._call(event, data)
        for other in self.events:
            follows = other["trigger_after"] == event["id"]
            if follows and (succeeded or not other["trigger_only_on_success"]):
                self._run(other)
            elif any([state, "change"] in other["targets"] for state in changed):
                self._run(other)

    def _call(self, event: dict[str, Any], data: Any) -> tuple[bool, list[int]]:
        """Whether a handler succeeded, and the states that it has changed."""
        asked = {
            "data": [self.values[component] for component in event["inputs"]],
            "fn_index": event["id"], "session_hash": self.session, "event_data": data, "trigger_id": None,
        }
        joined = self.client.post("/gradio_api/queue/join", json=asked)
        if joined.status_code != 200:
            self.errors.append(joined.text)
            return False, []
        found: list[Any] = []
        for message in self._told():
            output = message.get("output") or {}
            if message["msg"] == "process_generating" and message["success"]:
                new = output["data"]
                # the first comes whole, later ones as differences
                found = [apply_diff(*pair) for pair in zip(found, new, strict=True)] if found else new
                self._take(event, found)
            elif message["msg"] == "process_completed":
                if not message["success"]:
                    self.errors.append(str(output.get("error")))
                    return False, []
                if not found:
                    self._take(event, output["data"])
                return True, output.get("changed_state_ids") or []
        raise AssertionError("the stream ended without an answer")

    def _told(self) -> Iterator[dict[str, Any]]:
        where = "/gradio_api/queue/data"
        with self.client.stream("GET", where, params={"session_hash": self.session}) as stream:
            for line in stream.iter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    def _take(self, event: dict[str, Any], outputs: list[Any]) -> None:
        for component, value in zip(event["outputs"], outputs, strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                if "value" in value:
                    self.values[component] = value["value"]
            else:
                self.values[component] = value
