"""The app. Gradio is imported in this folder alone; `launch` opens the page and then loads the model."""

import spaces  # noqa: F401  first: a ZeroGPU Space needs it before anything that may touch CUDA

# isort: split
import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import current_thread, main_thread
from types import MappingProxyType

import gradio as gr
from starlette.middleware import Middleware

from lynx.backbones.memory import share_memory_between_threads
from lynx.compat import offer_as_tool
from lynx.config import LIMITS
from lynx.errors import LynxError
from lynx.ui.engine import Engine
from lynx.ui.examples import ExampleClip, find_examples
from lynx.ui.host_policy import MENU, SPACE, first_setup, host_policy, is_hosted
from lynx.ui.page import build
from lynx.ui.types import Setup
from lynx.ui.visitors import Doorkeeper
from lynx.ui.waiting_limit import WaitingLimit

logger = logging.getLogger(__name__)
UPLOADS = Path(__file__).with_name("uploads.js").read_text(encoding="utf-8")


def launch(
    host: str = "127.0.0.1", port: int | None = 7860, setup: Setup | None = None,
    examples: list[ExampleClip] | None = None, engine: Engine | None = None,
    block: bool = True, variables: Mapping[str, str] = MappingProxyType({}), mcp_server: bool = False,
) -> gr.Blocks:
    """Serve the page at host:port and return when the server ends, or as soon as it is ready if not `block`.

    setup: the model to begin with; the embedded one with the adapters of the checkout where not given.
    variables: of the environment. With the host they say who comes, and what visitors may name: see
    `lynx.ui.host_policy`. mcp_server: whether assistants may call `/ask` as a tool of MCP.
    Raises: LynxError: one of them is wrong, an engine that takes anything, for a page for strangers, or what
    the MCP server needs is missing.
    """
    if mcp_server and find_spec("mcp") is None:
        raise LynxError("the MCP server needs mcp: pip install 'lynx[mcp]'")
    policy = host_policy(host, variables, setup) if engine is None else engine.models.policy
    if is_hosted(host, variables) and not policy.hosted:
        raise LynxError(f"this engine takes any folder as an adapter, too much for {host!r}: give a policy")
    logger.info("%s", policy)
    share_memory_between_threads()
    setup = policy.named(setup) if setup else first_setup(policy)
    backbones = list(policy.backbones if policy.hosted else MENU)
    with ExitStack() as ending:
        if block:
            ending.enter_context(_sigterm_ends())
        engine = engine or Engine(policy=policy)
        examples = find_examples() if examples is None else examples
        blocks = build(engine, setup, backbones, examples)
        blocks.queue(default_concurrency_limit=8)
        if block:
            ending.callback(engine.close)
            ending.callback(blocks.close, verbose=False)
        shown = [str(example.folder) for example in examples]  # wherever the app is started from
        limit = Middleware(WaitingLimit, blocks, behind_proxy=SPACE in variables)
        checks = [limit, Middleware(Doorkeeper, blocks.visitors)]
        blocks.launch(
            server_name=host, server_port=port, theme=theme(), ssr_mode=False, share=False,
            css_paths=Path(__file__).with_name("style.css"), head=f"<script>{UPLOADS}</script>",
            footer_links=["api"],
            max_file_size=LIMITS.max_upload_bytes, allowed_paths=shown, prevent_thread_lock=True,
            app_kwargs={"middleware": checks}, mcp_server=mcp_server,
        )
        if mcp_server:
            offer_as_tool(blocks, "/ask", optional=("video",))  # as where there is only a sound
        setup, left_out = engine.models.without_broken(setup)
        for reason in left_out:
            logger.warning("%s", reason)
        try:
            engine.models.get(setup)  # after the page is up; questions asked meanwhile wait for it
        except LynxError as error:
            logger.warning("%s", error)  # the page says it to each visitor
        if block:
            blocks.block_thread()
    return blocks


@contextmanager
def _sigterm_ends() -> Iterator[None]:
    """Let SIGTERM end the program as if it had come to its end: Python deletes temporary files only then."""

    def end(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the cleaning
        raise SystemExit(0)

    if current_thread() is not main_thread():  # the only one that may handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def theme() -> gr.themes.Base:
    """Calm grays, one accent, fonts that are on every machine: the page asks the internet for nothing."""
    sans = ("ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    hues = {"primary_hue": gr.themes.colors.teal, "neutral_hue": gr.themes.colors.slate}
    mono = ("ui-monospace", "Menlo", "Consolas", "monospace")
    base = gr.themes.Base(**hues, radius_size=gr.themes.sizes.radius_lg, font=sans, font_mono=mono)
    fill = "button_primary_background_fill"
    # Gradio's own are too faint to be read by everyone: contrast of text is 4.5 or more (WCAG AA)
    return base.set(
        body_text_color_subdued="*neutral_500", input_placeholder_color="#5b6b82",
        input_placeholder_color_dark="#a9b6c9",
        **dict.fromkeys((fill, f"{fill}_dark"), "*primary_700"),
        **dict.fromkeys((f"{fill}_hover", f"{fill}_hover_dark"), "*primary_800"),
    )
