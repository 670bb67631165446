// Says which example was chosen and marks it; in each row one picture can be reached with Tab, the others
// with the arrow keys.
const rows = [...element.querySelectorAll(".row")];
const credit = element.querySelector(".credit");

function mark(chosen) {
  for (const button of element.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button === chosen));
  }
  credit.textContent = chosen?.dataset.credit ?? "";
  credit.hidden = !credit.textContent;
}

function stop(row, button) {
  for (const each of row.querySelectorAll("button")) each.tabIndex = each === button ? 0 : -1;
}

for (const row of rows) stop(row, row.querySelector("button"));

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-index]");
  if (!button) return;
  stop(button.parentElement, button);
  mark(button);
  trigger("choose", { index: Number(button.dataset.index) });
});

element.addEventListener("keydown", (event) => {
  const button = event.target.closest("button[data-index]");
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  const buttons = button ? [...button.parentElement.querySelectorAll("button")] : [];
  const at = buttons.indexOf(button);
  const to = { Home: 0, End: buttons.length - 1 }[event.key] ?? at + (steps[event.key] ?? NaN);
  if (!buttons[to]) return;
  event.preventDefault();
  stop(button.parentElement, buttons[to]);
  buttons[to].focus();
});

window.lynxNoExample = () => mark(null); // another clip was given
