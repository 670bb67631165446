"""The app. Gradio is imported in this folder alone; `launch` opens the page and then loads the model."""

import spaces  # noqa: F401  first: a ZeroGPU Space needs it before anything that may touch CUDA

# isort: split
import logging
from pathlib import Path

import gradio as gr

from lynx.config import LIMITS
from lynx.errors import LynxError
from lynx.ui.adapter_policy import adapter_policy
from lynx.ui.engine import Engine
from lynx.ui.examples import ROOT, ExampleClip, find_adapters, find_examples
from lynx.ui.page import build
from lynx.ui.types import EMBEDDED, Setup

logger = logging.getLogger(__name__)

BACKBONES = [
    EMBEDDED,
    *("llava-onevision-0.5b", "llava-onevision-7b", "qwen2.5-vl-3b", "qwen2.5-vl-7b"),
    *("internvl3-1b", "internvl3-2b", "internvl3-8b", "internvl3.5-4b"),
]
"""Choices of the menu, which fit one GPU; any other name can be typed."""


def launch(
    host: str = "127.0.0.1", port: int | None = 7860, setup: Setup | None = None,
    examples: list[ExampleClip] | None = None, engine: Engine | None = None,
    block: bool = True, hosted: bool = False,
) -> gr.Blocks:
    """Serve the page at host:port and return when the server ends, or as soon as it is ready if not `block`.

    setup: the model to begin with; the embedded one with the adapters of the checkout where not given.
    hosted: strangers can reach it, whatever the host. Then, and on every host but this machine's own,
    visitors may name no folder but those in `adapters/` and what `setup` has.
    Raises: LynxError: an engine that reads any folder, for a page that strangers can reach.
    """
    setup = setup or Setup(adapters=find_adapters(EMBEDDED))
    policy = adapter_policy(host, ROOT / "adapters", setup.adapters, hosted)
    engine = engine or Engine(policy=policy)
    if policy.below and engine.models.policy.below is None:
        raise LynxError(f"this engine takes any folder as an adapter, too much for {host!r}: give a policy")
    examples = find_examples() if examples is None else examples
    blocks = build(engine, setup, BACKBONES, examples)
    blocks.queue(default_concurrency_limit=8)
    shown = [str(example.clip.parent) for example in examples]  # wherever the app is started from
    blocks.launch(
        server_name=host, server_port=port, theme=theme(), css_paths=Path(__file__).with_name("style.css"),
        max_file_size=LIMITS.max_upload_bytes, allowed_paths=shown, prevent_thread_lock=True, ssr_mode=False,
        footer_links=["api"], share=False,
    )
    setup, left_out = engine.models.without_broken(setup)
    for reason in left_out:
        logger.warning("%s", reason)
    try:
        engine.models.get(setup)  # after the page is up; questions asked meanwhile wait for it
    except LynxError as error:
        logger.warning("%s", error)  # the page says it to each visitor
    if block:
        blocks.block_thread()
        engine.close()
    return blocks


def theme() -> gr.themes.Base:
    """Calm grays, one accent, fonts that are on every machine: the page asks the internet for nothing."""
    sans = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    hues = {"primary_hue": gr.themes.colors.teal, "neutral_hue": gr.themes.colors.slate}
    mono = ("ui-monospace", "Menlo", "Consolas", "monospace")
    return gr.themes.Base(**hues, radius_size=gr.themes.sizes.radius_lg, font=sans, font_mono=mono)
