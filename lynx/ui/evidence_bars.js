// Words, sentences and bars, as plain elements.

const SAID = {
  attribution: "Attribution",
  attention: "Attention",
  hiding: "Hide each",
};
const LOG_TWO = Math.log(2);

function wordButtons(answer, choose, preview) {
  const buttons = answer.words.map((word, i) => wordButton(word.text, i, choose, preview));
  if (answer.words.length > 1) buttons.unshift(wordButton("whole answer", null, choose, preview));
  return buttons;
}

function wordButton(text, word, choose, preview) {
  const made = make(
    "button",
    {
      type: "button",
      class: word === null ? "word whole" : "word",
      onclick: () => choose(word),
      onpointerenter: (event) => event.pointerType !== "touch" && preview(word),
      onpointerleave: () => preview(undefined),
      onfocus: () => preview(word),
      onblur: () => preview(undefined),
    },
    make("span", { class: "text" }, text),
    make("span", { class: "figure" }),
  );
  made.word = word;
  return made;
}

// Under each word its probability, or what of it rests on the place that is picked.
function updateWords(buttons, answer, state) {
  const picked = state.pick && answer.mapped(state.method);
  const values = buttons.map((button) => picked && answer.at(answer.find(button.word, state.method), state.pick));
  const least = state.method === "attention" ? 1e-9 : 2 * NEGLIGIBLE;
  const most = Math.max(least, ...values.map((value, i) => (buttons[i].word === null ? 0 : Math.abs(value ?? 0))));
  buttons.forEach((button, i) => {
    const { word } = button;
    const name = word === null ? "the whole answer" : answer.words[word].text;
    const probability = answer.probability(word);
    const unit = state.method === "attention" ? "share" : "nats";
    const value = values[i];
    let figure = probability === undefined ? "" : percent(probability);
    let told = probability === undefined ? name : `${name}, ${percent(probability)} likely`;
    if (picked) {
      figure = value === undefined ? "?" : amount(value, unit);
      told = `${name}: ${value === undefined ? "not computed yet" : `${figure} ${unit === "nats" ? "nats" : "of attention"} here`}`;
    }
    button.lastChild.textContent = figure;
    button.setAttribute("aria-label", told);
    button.title = picked && value === undefined ? "Not computed yet: choose the word to compute it" : "";
    button.setAttribute("aria-pressed", String(word === state.word));
    const strength = picked && value ? Math.min(1, Math.abs(value) / most) : 0;
    button.style.setProperty("--strength", `${Math.round(55 * strength)}%`);
    button.classList.toggle("for", strength > 0 && value > 0);
    button.classList.toggle("against", strength > 0 && value < 0);
    button.classList.toggle("unknown", Boolean(picked) && value === undefined);
  });
}

function list(parts) {
  return parts.length < 2 ? parts.join("") : `${parts.slice(0, -1).join(", ")} and ${parts.at(-1)}`;
}

// The one sentence that matters, and what its unit means.
function lead(answer, attribution, word) {
  const { method, totals } = attribution;
  const name = answer.text(word);
  const senses = Object.keys(totals).filter((sense) => sense !== "text");
  const strongest = [...senses].sort((a, b) => Math.abs(totals[b]) - Math.abs(totals[a]));
  if (method === "attention") {
    const all = Object.keys(totals).sort((a, b) => totals[b] - totals[a]);
    const parts = all.map((sense) => `${percent(totals[sense])} on ${sense === "text" ? "the words" : `the ${answer.label(sense)}`}`);
    return [`While the model said ${name}, its attention lay ${list(parts)}.`, ""];
  }
  if (method === "hiding") {
    const parts = [];
    for (const sense of strongest.filter((each) => Math.abs(totals[each]) >= LOG_TWO)) {
      const change = totals[sense] > 0 ? "less" : "more";
      parts.push(`Without the ${answer.label(sense)} ${name} is ${times(Math.abs(totals[sense]))} times ${change} likely.`);
    }
    const idle = strongest.filter((each) => Math.abs(totals[each]) < LOG_TWO).map((each) => answer.label(each));
    if (idle.length) parts.push(`Without the ${list(idle).replace(" and ", " or ")} it stays about as likely.`);
    return [parts.join(" "), ""];
  }
  const gained = attribution.gained ?? senses.reduce((sum, sense) => sum + totals[sense], 0);
  const parts = strongest.filter((sense) => Math.abs(totals[sense]) >= 0.05);
  const each = parts.map((sense) => `${answer.label(sense)} ${plain(totals[sense])}`).join(", ");
  if (Math.abs(gained) < 0.05) return [`The media hardly change how likely ${name} is${each && `: ${each}`}.`, ""];
  const change = gained > 0 ? "more" : "less";
  let unit = `A nat is a factor of e: ${plain(Math.abs(gained))} nats make it ${times(Math.abs(gained))} times ${change} likely.`;
  const missed = Math.abs(attribution.missed ?? 0);
  if (missed > Math.max(0.1, 0.1 * Math.abs(gained))) {
    unit += ` ${missed.toFixed(1)} nats of the change from blank media could not be traced to single cells; they are shared out in proportion.`;
  }
  return [`The media make ${name} ${plain(Math.abs(gained))} nats ${change} likely: ${each}.`, unit];
}

const ENDS = {
  attribution: ["against", "for"],
  attention: ["", "share of attention"],
  hiding: ["likelier without it", "less likely without it"],
};

// A bar a sense, on one scale, to the right for and to the left against; the words of the conversation last.
function senseBars(answer, attribution) {
  const { totals, method, unit } = attribution;
  const shown = Object.keys(totals).filter((sense) => sense !== "text");
  const words = "text" in totals && method !== "hiding"; // which cannot be hidden
  if (words) shown.push("text");
  const values = shown.map((sense) => totals[sense]);
  const low = Math.min(0, ...values);
  const span = Math.max(0, ...values) - low || 1;
  const zero = (100 * -low) / span;
  const rows = shown.map((sense) => {
    const value = totals[sense];
    const width = (100 * Math.abs(value)) / span;
    const bar = make("i", { style: `width:${width}%;left:${value < 0 ? zero - width : zero}%` });
    bar.style.setProperty("--sense", answer.senses[sense]?.color ?? "var(--quiet)");
    return make(
      "li",
      { class: sense === "text" ? "row text" : "row" },
      make("span", { class: "name" }, sense === "text" && unit === "nats" ? "words alone" : answer.label(sense)),
      make("span", { class: "track", "aria-hidden": "true" }, make("b", { style: `left:${zero}%` }), bar),
      make("span", { class: "value" }, unit === "share" ? percent(value) : signed(value)),
    );
  });
  const ends = make("div", { class: "ends", "aria-hidden": "true" });
  const [left, right] = ENDS[method.split(":")[0]] ?? ENDS.attribution;
  if (low < 0) ends.append(make("span", {}, `${MINUS} ${left}`));
  ends.append(make("span", { class: "right" }, low < 0 ? `${right} +` : right));
  const made = make("div", { class: "chart" }, ends, make("ul", { "aria-label": "What each sense adds" }, ...rows));
  if (words && unit === "nats") {
    const note = "Words alone: with blank media, against a word drawn at random.";
    made.append(make("p", { class: "fine" }, note));
  }
  return made;
}

// The same rows while their figures are computed, so that nothing jumps.
function emptyBars(answer) {
  const rows = Object.keys(answer.senses).map((sense) =>
    make(
      "li",
      { class: "row" },
      make("span", { class: "name" }, answer.label(sense)),
      make("span", { class: "track" }),
      make("span", { class: "value" }, "\u2013"),
    ),
  );
  return make("div", { class: "chart empty", "aria-hidden": "true" }, make("div", { class: "ends" }, "\u00a0"), make("ul", {}, ...rows));
}

// What was said at a word's place and what might have been, each with its probability.
function candidates(answer, word) {
  if (word === null) {
    const words = answer.words.map((each, i) => ({ text: each.text, probability: answer.probability(i) }));
    if (words.length < 2 || words.some((each) => each.probability === undefined)) return [];
    words.sort((a, b) => a.probability - b.probability);
    return [probabilities("Least certain words", words.slice(0, 6))];
  }
  const tokens = answer.tokensOf(word).filter((token) => token.probability !== undefined);
  return tokens.slice(0, 3).map((token) => {
    const others = (token.others ?? []).filter((other) => other.text !== token.text).slice(0, 5);
    const title = tokens.length > 1 ? `Instead of \u201c${token.text.trim()}\u201d` : `Instead of ${answer.text(word)}`;
    return probabilities(title, [{ ...token, said: true }, ...others]);
  });
}

function probabilities(title, rows) {
  const items = rows.map((row) =>
    make(
      "li",
      { class: row.said ? "row said" : "row" },
      make("span", { class: "name" }, row.text.trim() || "\u2423"), // a space is drawn
      make("span", { class: "track", "aria-hidden": "true" }, make("i", { style: `left:0;width:${100 * row.probability}%` })),
      make("span", { class: "value" }, percent(row.probability)),
    ),
  );
  return make("div", { class: "chart candidates" }, make("h3", {}, title), make("ul", {}, ...items));
}
