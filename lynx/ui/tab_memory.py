"""What a browser's tab remembers over a reload: a text in its session storage, which no other tab has.

Gradio's BrowserState lies in the local storage, which all tabs share, and the next person at that machine.
"""

from typing import Any

import gradio as gr

SCRIPT = """
watch("value", () => {
  try { if (props.value) sessionStorage.setItem("lynx", props.value); } catch { /* full, or forbidden */ }
});
"""
RECALL = """(chat, record) => {
  try { return [chat, sessionStorage.getItem("lynx") ?? ""]; } catch { return [chat, ""]; }
}"""
"""The arguments of the page's first event, with what the tab remembers."""


def tab_memory(**options: Any) -> gr.HTML:
    """A component that shows nothing: each value that it is given is remembered. options: of `gr.HTML`."""
    return gr.HTML("", html_template="<i></i>", js_on_load=SCRIPT, **options)
