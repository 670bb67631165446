"""What stands above the question box while an earlier question is edited, and the pens beside the questions.

Gradio's own editing is not used: a message is HTML here, so that it would show marks in place of what was
typed, and what is typed there would be live in the page.

    bar = edit_bar(elem_id="editing")
    bar.edit(handler, ...)    # a pen was pressed: event.turn is the number of the question, from 0
    bar.leave(handler, ...)   # or what is being edited is left as it is
"""

from html import escape
from typing import Any

import gradio as gr

SCRIPT = """
document.addEventListener("click", (event) => {
  const pen = event.target.closest?.("#chat button.edit");
  if (!pen) return;
  event.stopPropagation(); // a click on a message shows what its answer rests on
  trigger("edit", { turn: Number(pen.value) });
  document.querySelector("#question textarea")?.focus();
}, true);
element.addEventListener("click", (event) => {
  if (event.target.closest(".leave")) trigger("leave", {});
});
"""


def edit_bar(**options: Any) -> gr.HTML:
    """The component; its value comes from `editing`, or is "". options: of `gr.HTML`."""
    return gr.HTML("", js_on_load=SCRIPT, **options)


def pen(turn: int) -> str:
    """The button beside a question. Of its attributes Gradio lets through these alone."""
    return f'<button type="button" class="edit" value="{turn}" title="Edit question {turn + 1}"></button>'


def editing(told: str) -> str:
    """What the bar says, and the way out."""
    out = '<button type="button" class="leave">Cancel</button>'
    return f'<div class="editing" role="status"><span>{escape(told)}</span>{out}</div>'
