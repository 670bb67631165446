// The view: what the visitor chose, and the parts of the page that follow. Gradio gives `element`, `props`,
// `trigger` (sends an event to the server) and `watch` (calls back when the value has changed).

const root = element.querySelector(".evidence");
// word: null is the whole answer. pick: a cell, a rectangle or a moment. queue: words still to be computed.
const state = { word: null, method: "attribution", pick: null, threshold: 0.15, queue: [] };
const TRIES = 3; // how often the server is asked for one word: what it computed before may come first
const tries = new Map(); // by word
let busy = null; // what the server was asked for last: a word and a method
const EMPTY = "Ask about a clip: what each word of the answer rests on is shown here.";
const NO_MAP = "Each sense is hidden as a whole: there is no map of it.";
const PICK = "Pick a cell, or a moment on the curve, to see which words rest on it.";
let answer = null; // what is shown
let parts = null; // its elements, made once for an answer

// A new value came: another answer, or more that is known of the same one.
function receive() {
  const text = props.value;
  if (!text) {
    answer = parts = null;
    root.replaceChildren(make("p", { class: "fine" }, EMPTY));
    return;
  }
  const data = JSON.parse(text);
  const fresh = answer?.name !== data.name;
  answer = new Answer(data);
  if (fresh) {
    const word = answer.words.length === 1 ? 0 : data.chosen; // the only word is the whole answer
    Object.assign(state, { word, method: data.method, pick: null });
    parts = build();
  }
  if (fresh || data.notice) forget();
  busy = null;
  loadSheets(fresh);
  update();
  if (!data.loading && !data.notice) request();
}

function forget() {
  state.queue = [];
  tries.clear();
  busy = null;
}

// Pictures come once for an answer; later values of the same one use them again.
function loadSheets(fresh) {
  answer.lanes.forEach((lane, i) => {
    if (!fresh) {
      lane.image = parts.lanes[i].image;
      return;
    }
    lane.image = new Image();
    lane.image.onload = () => draw();
    lane.image.src = lane.sheet;
    parts.lanes[i].image = lane.image;
  });
}

// Ask the server for what is chosen and not known yet; then for the words in the queue, one after the other,
// so that each is drawn as soon as it is known.
function request() {
  const { method } = state;
  const word = [state.word, ...state.queue].find((each) => !answer.find(each, method) && (tries.get(each) ?? 0) < TRIES);
  if (word === undefined) return;
  tries.set(word, (tries.get(word) ?? 0) + 1);
  busy = { word, method };
  trigger("compute", { word, method });
  update();
}

function choose(change) {
  Object.assign(state, change);
  forget();
  update();
  trigger("choose", { word: state.word, method: state.method });
  request();
}

function waiting() {
  if (!busy) return answer.loading;
  const of = busy.word === null ? "the whole answer" : answer.text(busy.word);
  return busy.method === "hiding" ? `Hiding each sense from ${of} \u2026` : `Computing what ${of} rests on \u2026`;
}

// Words whose share in what is picked is not known.
const unknown = () => answer.words.map((_, word) => word).filter((word) => !answer.find(word, state.method));

function computeRest() {
  state.queue = unknown();
  request();
}

function pick(place) {
  state.pick = place;
  update();
}

function build() {
  const made = { preview: undefined };
  made.words = wordButtons(answer, (word) => choose({ word }), (word) => {
    made.preview = word;
    updateCandidates();
  });
  made.status = make("p", { class: "status", role: "status" });
  // the bar moves; here, since a scoped style sheet has no place for key frames
  const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  const moving = { duration: 1400, iterations: Infinity, pseudoElement: "::after" };
  if (!still) made.status.animate({ backgroundPositionX: ["-70%", "170%"] }, moving);
  made.lead = make("div", { class: "lead", "aria-live": "polite" });
  made.bars = make("div", { class: "bars" });
  made.candidates = make("div", { class: "others" });
  made.sentence = make("p", { class: "fine" });
  made.methods = answer.methods.map(methodChoice);
  made.lanes = answer.lanes.map(laneRow);
  made.curve = curveRow();
  made.legend = make("span", { class: "legend" });
  made.reading = make("span", { "aria-live": "polite" });
  made.hover = make("span", { class: "hover", "aria-hidden": "true" });
  made.clear = make("button", { type: "button", class: "clear", onclick: () => pick(null) }, "Clear");
  made.rest = make("button", { type: "button", class: "clear", onclick: computeRest });
  made.timeline = make(
    "div",
    { class: "timeline" },
    make("div", { class: "tools" }, make("h3", {}, "Where and when"), made.legend, thresholdChoice()),
    make("div", { class: "scroll" }, make("div", { class: "score" }, ...made.lanes.map((lane) => lane.row), made.curve.row)),
    make("p", { class: "reading" }, made.reading, made.rest, made.clear, made.hover),
  );
  const longest = Math.max(1, ...answer.lanes.map((lane) => lane.times.length));
  made.timeline.style.setProperty("--pictures", longest);
  root.replaceChildren(
    make("div", { class: "words", role: "group", "aria-label": "Words of the answer" }, ...made.words),
    make("div", { class: "switch" }, make("fieldset", {}, make("legend", {}, "Method"), ...made.methods), made.sentence),
    make("div", { class: "heading" }, made.lead, made.status),
    make("div", { class: "figures" }, made.bars, made.candidates),
    made.timeline,
  );
  return made;
}

function methodChoice(method) {
  const input = make("input", {
    type: "radio",
    name: `method-${answer.name.slice(0, 12)}`,
    value: method,
    onchange: () => choose({ method }),
  });
  return make("label", {}, input, make("span", {}, SAID[method] ?? method));
}

function thresholdChoice() {
  const output = make("output", {}, `${Math.round(100 * state.threshold)} %`);
  const input = make("input", { type: "range", min: 0, max: 90, step: 5, value: 100 * state.threshold });
  input.addEventListener("input", () => {
    state.threshold = input.value / 100;
    output.textContent = `${input.value} %`;
    draw();
  });
  return make("label", { class: "threshold" }, "Hide cells below ", input, output);
}

// A lane: its name, and pictures whose cells are picked by pointer or with the arrow keys.
function laneRow(lane, index) {
  const grid = answer.senses[lane.sense].grid;
  const canvas = make("canvas", {
    tabindex: 0,
    role: "application",
    "aria-label": `${lane.label}: ${lane.times.length} pictures. Arrow keys pick a cell, Escape clears.`,
  });
  const region = (from, to) => ({
    lane: index,
    picture: from.picture,
    top: Math.min(from.row, to.row),
    bottom: Math.max(from.row, to.row),
    left: Math.min(from.column, to.column),
    right: Math.max(from.column, to.column),
  });
  let start = null;
  canvas.addEventListener("pointerdown", (event) => {
    start = cellAt(canvas, lane, grid, event);
    if (start && event.pointerType !== "touch") canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const here = cellAt(canvas, lane, grid, event);
    if (start && here?.picture === start.picture && event.buttons) {
      state.pick = region(start, here);
      draw();
    }
    const value = here && answer.at(answer.find(state.word, state.method), region(here, here));
    parts.hover.textContent = value === null || value === undefined ? "" : told(region(here, here), value);
  });
  canvas.addEventListener("pointerup", (event) => {
    const here = cellAt(canvas, lane, grid, event);
    if (start) pick(region(start, here?.picture === start.picture ? here : start));
    start = null;
  });
  canvas.addEventListener("pointercancel", () => (start = null)); // the finger scrolls
  canvas.addEventListener("pointerleave", () => (parts.hover.textContent = ""));
  canvas.addEventListener("keydown", (event) => {
    const moved = moveCell(event.key, lane, index, grid);
    if (moved === undefined) return;
    event.preventDefault();
    pick(moved);
  });
  const name = make("span", { class: "name" }, make("i", { style: `--sense:${answer.senses[lane.sense].color}` }), lane.label);
  return { canvas, row: make("div", { class: "lane" }, name, make("div", { class: "track" }, canvas)) };
}

// Where an arrow key leads in a lane, from picture to picture; null: nothing is picked; undefined: another key.
function moveCell(key, lane, index, grid) {
  if (key === "Escape") return null;
  const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[key];
  if (!step) return undefined;
  const now = state.pick;
  if (now?.lane !== index) return { lane: index, picture: 0, top: 0, bottom: 0, left: 0, right: 0 };
  const row = Math.max(0, Math.min(grid[0] - 1, now.top + step[0]));
  const across = Math.max(0, Math.min(lane.times.length * grid[1] - 1, now.picture * grid[1] + now.left + step[1]));
  const column = across % grid[1];
  return { lane: index, picture: Math.floor(across / grid[1]), top: row, bottom: row, left: column, right: column };
}

// The curve is a slider over the moments.
function curveRow() {
  const all = moments(answer);
  const canvas = make("canvas", { tabindex: 0, role: "slider", "aria-label": "Moment", "aria-valuemin": 0, "aria-valuemax": all.length - 1 });
  const scale = () => canvas.clientWidth / (answer.end - answer.start);
  canvas.addEventListener("click", (event) => {
    const time = answer.start + (event.clientX - canvas.getBoundingClientRect().left) / scale();
    const nearest = all.reduce((best, each) => (Math.abs(each - time) < Math.abs(best - time) ? each : best), all[0]);
    pick(state.pick?.lane === undefined && state.pick?.time === nearest ? null : { time: nearest });
  });
  canvas.addEventListener("keydown", (event) => {
    const now = all.indexOf(state.pick?.time);
    const next = { ArrowLeft: now - 1, ArrowDown: now - 1, ArrowRight: now + 1, ArrowUp: now + 1, Home: 0, End: all.length - 1 }[event.key];
    if (next === undefined && event.key !== "Escape") return;
    event.preventDefault();
    pick(next === undefined ? null : { time: all[Math.max(0, Math.min(all.length - 1, next))] });
  });
  const range = make("small");
  const name = make("span", { class: "name" }, "over time", range);
  return { canvas, range, row: make("div", { class: "lane curve" }, name, make("div", { class: "track" }, canvas)) };
}

function update() {
  const attribution = answer.find(state.word, state.method);
  updateWords(parts.words, answer, state);
  for (const choice of parts.methods) choice.firstChild.checked = choice.firstChild.value === state.method;
  parts.sentence.textContent = answer.sentences[state.method] ?? "";
  const wait = waiting();
  parts.status.textContent = wait || answer.notice;
  parts.status.classList.toggle("waiting", Boolean(wait));
  parts.status.classList.toggle("failed", Boolean(answer.notice) && !wait);
  root.setAttribute("aria-busy", String(Boolean(wait)));
  const [said, unit] = attribution ? lead(answer, attribution, state.word) : ["", ""];
  parts.lead.replaceChildren(...[said && make("p", { class: "said" }, said), unit && make("p", { class: "fine" }, unit)].filter(Boolean));
  parts.bars.replaceChildren(attribution ? senseBars(answer, attribution) : emptyBars(answer));
  updateCandidates();
  draw();
}

function updateCandidates() {
  parts.candidates.replaceChildren(...candidates(answer, parts.preview === undefined ? state.word : parts.preview));
}

function draw() {
  if (!parts || !root.isConnected || !root.clientWidth) return;
  const attribution = answer.find(state.word, state.method);
  const peak = answer.peak(attribution);
  const mapped = Object.keys(attribution?.maps ?? {}).length > 0;
  const pickable = answer.mapped(state.method);
  answer.lanes.forEach((lane, i) =>
    drawLane(parts.lanes[i].canvas, lane, answer, attribution, peak, pickable ? state : { ...state, pick: null }),
  );
  const [low, high] = drawCurve(parts.curve.canvas, answer, attribution, state);
  const unit = attribution?.unit;
  parts.curve.row.hidden = !pickable;
  const faint = unit === "nats" && Math.max(high, -low) < NEGLIGIBLE;
  const range = faint ? `under ${NEGLIGIBLE}` : `${amount(low, unit)} to ${amount(high, unit)}`;
  parts.curve.range.textContent = mapped ? `${range}${unit === "nats" ? " nats" : ""}` : "";
  const now = moments(answer).indexOf(state.pick?.time);
  parts.curve.canvas.setAttribute("aria-valuenow", Math.max(0, now));
  parts.curve.canvas.setAttribute("aria-valuetext", now < 0 ? "none picked" : clock(state.pick.time, answer.end));
  parts.legend.replaceChildren(...(mapped ? legend(peak, unit) : pickable ? [] : [NO_MAP]));
  parts.legend.parentElement.classList.toggle("mapped", mapped);
  const value = state.pick ? answer.at(attribution, state.pick) : undefined;
  parts.reading.textContent = state.pick ? told(state.pick, value) : PICK;
  parts.reading.parentElement.hidden = !pickable;
  parts.clear.hidden = !state.pick;
  const missing = unknown().length;
  parts.rest.hidden = !state.pick || !missing || !mapped || Boolean(waiting());
  parts.rest.textContent = missing === 1 ? "Compute the other word" : `Compute the other ${missing} words`;
}

function legend(peak, unit) {
  const value = `${amount(peak.value, unit)}${unit === "nats" ? " nats" : ""}`;
  const strongest = peak.sense ? `strongest cell ${value}` : "no cell matters by itself";
  const entry = (look, text) => make("span", {}, look && make("i", { class: look }), text);
  if (unit === "share") return [entry("warm", "attention"), entry("strongest", strongest)];
  return [entry("cool", "against"), entry("warm", "for"), entry(peak.sense ? "strongest" : "", strongest)];
}

// A place in words, with what rests on it.
function told(place, value) {
  const lane = answer.lanes[place.lane];
  const time = clock(lane ? lane.times[place.picture] : place.time, answer.end);
  const size = lane ? (place.bottom - place.top + 1) * (place.right - place.left + 1) : 0;
  const cells = size > 1 ? `${size} cells` : `row ${place.top + 1}, column ${place.left + 1}`;
  const where = lane ? `${capital(lane.label)}, ${time}, ${cells}` : `All senses at ${time}`;
  if (value === undefined) return `${where}.`;
  const unit = state.method.startsWith("attention") ? "of attention" : "nats";
  return `${where}: ${amount(value, unit === "nats" ? "nats" : "share")} ${unit} for ${answer.text(state.word)}.`;
}

const capital = (text) => text.slice(0, 1).toUpperCase() + text.slice(1);

new ResizeObserver(() => answer && draw()).observe(element);
watch("value", receive);
receive();
