"""The app as tools of an assistant, over the Model Context Protocol."""

import asyncio
import json

import pytest

pytest.importorskip("mcp", reason="needs the extra: pip install 'lynx[mcp]'")

import torch
from mcp import ClientSession
from mcp.client.streamable_http import streamablehttp_client
from served import hosted

from lynx.media.writer import write_video

pytestmark = [
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),  # Gradio's queue, of pandas
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # mcp's own
]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mcp")
    write_video(folder / "clip.mp4", torch.randint(255, (8, 3, 48, 64), dtype=torch.uint8), 4)
    with hosted(folder, mcp_server=True) as served:
        served.clip = folder / "clip.mp4"
        yield served


def ask(app, **given):
    """What the tool says, and whether that is an error; also the tools there are."""

    async def call():
        async with streamablehttp_client(f"{app.url}/gradio_api/mcp/") as (read, write, _):
            async with ClientSession(read, write) as session:
                await session.initialize()
                tools = (await session.list_tools()).tools
                result = await session.call_tool("ask", given)
                return tools, result.content[0].text, bool(result.isError)

    return asyncio.run(asyncio.wait_for(call(), 60))


def address(app):
    return f"{app.url}/gradio_api/file={app.upload(app.clip)['path']}"


def test_an_assistant_asks_about_an_uploaded_clip(app):
    tools, said, failed = ask(app, video=address(app), question="what is it ?")
    assert [tool.name for tool in tools] == ["ask"] and not failed
    schema = tools[0].inputSchema
    assert schema["required"] == ["question"] and "nats" in schema["properties"]["evidence"]["description"]
    told = json.loads(ask(app, video=address(app), question="what is it ?", evidence=True)[1])
    assert told["answer"] == said and told["evidence"]["unit"] == "nats"


def test_an_assistant_is_refused_what_everybody_is(app):
    for video in ("http://127.0.0.1:9/a.mp4", f"{app.url}/gradio_api/file=/etc/passwd", "/etc/passwd"):
        _, said, failed = ask(app, video=video, question="what is it ?")
        assert failed and "root:" not in said and ("not uploaded here" in said or "Invalid file" in said)
    _, said, failed = ask(app, video=address(app), question="what is it ?", adapters=["smell"])
    assert failed and "here; loaded are audio, depth" in said


def test_a_long_call_is_refused_before_it_is_read(app):
    for body in (b"x" * (2**20 + 1), iter([b"x"])):  # the second does not say how long it is
        sent = app.client.post(f"{app.url}/gradio_api/mcp/", content=body)
        assert sent.status_code == 413 and "upload files" in sent.text
