// What is known of an answer, and how numbers are written. Nothing here touches the page.

const LEVELS = 127; // a cell's byte at the strongest cell of its sense
const NEGLIGIBLE = 0.05; // nats: five percent more or less likely
const MINUS = "\u2212";

// An element with attributes and children; strings become text, never HTML.
function make(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function signed(value, digits = 1) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return (0).toFixed(digits);
  return (value < 0 ? MINUS : "+") + text;
}

// Without a plus: as in a sentence.
const plain = (value, digits = 1) => signed(value, digits).replace("+", "");

// No line ends inside of it.
function percent(part) {
  const value = 100 * part;
  let text = value >= 10 || value === 0 ? String(Math.round(value)) : value < 0.1 ? "< 0.1" : value.toFixed(1);
  if (value > 99.5 && value < 100) text = "> 99";
  return `${text} %`.replaceAll(" ", "\u00a0");
}

// One digit, for small values two.
function amount(value, unit) {
  if (unit === "share") return percent(value);
  return signed(value, Math.abs(value) < 0.095 && Math.abs(value) >= 0.005 ? 2 : 1);
}

// How many times e^nats is, in two digits: 8.4 -> 4,400.
function times(nats) {
  if (nats > Math.log(1e6)) return "over a million";
  const value = Math.exp(nats);
  if (value < 10) return value.toFixed(1);
  const digits = 10 ** (Math.floor(Math.log10(value)) - 1);
  return (Math.round(value / digits) * digits).toLocaleString("en-US");
}

function clock(seconds, end) {
  if (end >= 60) return `${Math.floor(seconds / 60)}:${String(Math.round(seconds % 60)).padStart(2, "0")}`;
  return `${Number(seconds.toFixed(2))} s`;
}

class Answer {
  constructor(data) {
    Object.assign(this, data);
    this.known = new Map(); // "word method" -> attribution
    for (const each of data.attributions) {
      for (const map of Object.values(each.maps)) map.cells = bytes(map.cells);
      this.known.set(`${each.word} ${each.method}`, each);
    }
  }

  find(word, method) {
    const only = word === null && this.words.length === 1 ? 0 : word; // the same tokens
    const found = this.known.get(`${only} ${method}`);
    return found ?? (this.words.length === 1 ? this.known.get(`null ${method}`) : undefined);
  }

  label(sense) {
    return sense === "text" ? "words" : (this.senses[sense]?.label ?? sense);
  }

  text(word) {
    return word === null ? "this answer" : `\u201c${this.words[word].text}\u201d`;
  }

  tokensOf(word) {
    return word === null ? this.tokens : this.words[word].tokens.map((token) => this.tokens[token]);
  }

  // Of all tokens of a word together; undefined where it was not recorded.
  probability(word) {
    const all = this.tokensOf(word).map((token) => token.probability);
    return all.length && all.every((each) => each !== undefined) ? all.reduce((a, b) => a * b, 1) : undefined;
  }

  // What rests on a cell, a rectangle or a moment; undefined where the method has no such map.
  at(attribution, pick) {
    if (!attribution) return undefined;
    if (pick.lane === undefined) {
      const found = this.lanes.map((lane) => this.#moment(attribution, lane, pick.time));
      const senses = new Map(this.lanes.map((lane, i) => [lane.sense, found[i]])); // once a sense
      const there = [...senses.values()].filter((value) => value !== undefined);
      return there.length ? there.reduce((a, b) => a + b, 0) : undefined;
    }
    const lane = this.lanes[pick.lane];
    const map = attribution.maps[lane.sense];
    if (!map) return undefined;
    let sum = 0;
    for (let row = pick.top; row <= pick.bottom; row++) {
      for (let column = pick.left; column <= pick.right; column++) {
        sum += cell(map, momentOf(lane, map, pick.picture), row, column);
      }
    }
    return sum;
  }

  #moment(attribution, lane, time) {
    const map = attribution.maps[lane.sense];
    if (!map) return undefined;
    const spacing = map.times.length > 1 ? map.times[1] - map.times[0] : this.end - this.start;
    const near = map.times.findIndex((each) => Math.abs(each - time) <= spacing / 2 + 1e-6);
    return near < 0 ? undefined : map.sums[near];
  }

  // A method whose results have no maps, such as hiding whole senses, has nothing to pick.
  mapped(method) {
    const known = [...this.known.values()].filter((each) => each.method === method);
    return (!known.length && method !== "hiding") || known.some((each) => Object.keys(each.maps).length > 0);
  }

  // The strongest cell of all senses, and the value that is drawn fullest: where no cell matters by itself,
  // as in most of what hiding finds, nothing is drawn as if it did.
  peak(attribution) {
    let found = { value: 0 };
    for (const [sense, map] of Object.entries(attribution?.maps ?? {})) {
      const [, rows, columns] = map.shape;
      map.cells.forEach((level, i) => {
        const value = (level / LEVELS) * map.strongest;
        if (Math.abs(value) <= Math.abs(found.value)) return;
        const inside = i % (rows * columns);
        const moment = Math.floor(i / (rows * columns));
        found = { value, sense, moment, row: Math.floor(inside / columns), column: inside % columns };
      });
    }
    const least = attribution?.unit === "nats" ? NEGLIGIBLE : 0;
    if (Math.abs(found.value) < least) found = { value: found.value };
    return { ...found, full: Math.max(Math.abs(found.value), 2 * least) || 1 };
  }
}

const bytes = (text) => Int8Array.from(atob(text), (letter) => letter.charCodeAt(0));

function cell(map, moment, row, column) {
  return (map.cells[(moment * map.shape[1] + row) * map.shape[2] + column] / LEVELS) * map.strongest;
}

// Several pictures may share their tokens: the moment of the map that a picture of a lane belongs to.
function momentOf(lane, map, picture) {
  return Math.floor(lane.index[picture] / Math.ceil(lane.of / map.shape[0]));
}
