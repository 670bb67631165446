// Pictures of every sense on one time axis, with heat over them, and the curve below.

const WARM = [[255, 205, 95], [255, 92, 20]]; // for: from weak to strong
const COOL = [[140, 215, 255], [45, 105, 255]]; // against
const GAP = 3; // pixels between pictures
const CURVE = 84; // pixels of height
const AXIS = 20; // pixels below the curve, for the seconds
const PAD = 6; // pixels above and below the curve
const STEPS = [0.1, 0.25, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600]; // seconds between ticks

// A canvas as large as its place, sharp on dense screens; in CSS pixels.
function prepare(canvas, width, height) {
  const density = Math.min(3, window.devicePixelRatio || 1);
  canvas.width = Math.round(width * density);
  canvas.height = Math.round(height * density);
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.scale(density, density);
  return context;
}

// Where each picture of a lane stands: in the middle of its seconds, as large as they and `most` allow.
function place(lane, answer, width, most) {
  const scale = width / (answer.end - answer.start);
  const room = lane.seconds * scale;
  const [across, down] = lane.shape;
  const fit = Math.min((room - GAP) / across, most / down);
  const height = lane.fill ? Math.min(most, 72) : Math.max(1, down * fit);
  const tileWidth = lane.fill ? room : Math.max(1, across * fit);
  const tiles = lane.times.map((time) => ({
    x: (time - answer.start) * scale - tileWidth / 2, y: 0, width: tileWidth, height,
  }));
  return { tiles, height };
}

function drawLane(canvas, lane, answer, attribution, peak, state) {
  const width = canvas.parentElement.clientWidth;
  const most = answer.lanes.length > 3 ? 108 : 136;
  const { tiles, height } = place(lane, answer, width, most);
  const context = prepare(canvas, width, height);
  canvas.tiles = tiles;
  const map = attribution?.maps[lane.sense];
  const [tileWidth, tileHeight] = lane.tile;
  tiles.forEach((tile, i) => {
    const from = [(i % lane.columns) * tileWidth, Math.floor(i / lane.columns) * tileHeight];
    context.globalAlpha = attribution ? 1 : 0.45; // nothing known yet
    if (lane.image?.complete) {
      context.drawImage(lane.image, ...from, tileWidth, tileHeight, tile.x, tile.y, tile.width, tile.height);
    }
    context.globalAlpha = 1;
    if (map) drawHeat(context, tile, map, momentOf(lane, map, i), peak, state.threshold);
  });
  if (map && peak.sense === lane.sense) {
    tiles.forEach((tile, i) => {
      if (momentOf(lane, map, i) !== peak.moment) return;
      outline(context, tile, map, { top: peak.row, bottom: peak.row, left: peak.column, right: peak.column }, false);
    });
  }
  const { pick } = state;
  if (pick && pick.lane === undefined) drawMoment(context, answer, pick.time, width, height, false);
  if (pick && answer.lanes[pick.lane] === lane) {
    outline(context, tiles[pick.picture], map ?? { shape: [1, ...gridOf(answer, lane)] }, pick, true);
  }
}

const gridOf = (answer, lane) => answer.senses[lane.sense].grid;

// The picture gray, and cells over it: fuller and stronger in color with what rests on them.
function drawHeat(context, tile, map, moment, peak, threshold) {
  const [, rows, columns] = map.shape;
  context.save();
  context.globalCompositeOperation = "saturation";
  context.fillStyle = "rgb(128 128 128 / 55%)";
  context.fillRect(tile.x, tile.y, tile.width, tile.height);
  context.globalCompositeOperation = "source-over";
  context.fillStyle = "rgb(10 14 20 / 14%)";
  context.fillRect(tile.x, tile.y, tile.width, tile.height);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const value = cell(map, moment, row, column);
      const strength = Math.min(1, Math.abs(value) / peak.full);
      if (strength < Math.max(threshold, 0.02)) continue;
      const [weak, strong] = value > 0 ? WARM : COOL;
      const color = weak.map((part, i) => Math.round(part + (strong[i] - part) * strength));
      context.fillStyle = `rgb(${color.join(" ")} / ${0.28 + 0.37 * strength})`;
      const box = cellBox(tile, map, { top: row, bottom: row, left: column, right: column });
      context.fillRect(...box);
    }
  }
  context.restore();
}

// x, y, width, height of a rectangle of cells, on whole pixels so that neighbors leave no seam.
function cellBox(tile, map, region) {
  const [, rows, columns] = map.shape;
  const left = Math.round(tile.x + (tile.width * region.left) / columns);
  const right = Math.round(tile.x + (tile.width * (region.right + 1)) / columns);
  const top = Math.round(tile.y + (tile.height * region.top) / rows);
  const bottom = Math.round(tile.y + (tile.height * (region.bottom + 1)) / rows);
  return [left, top, right - left, bottom - top];
}

// Light on dark, so that it is seen on every picture; dashed for what the visitor picked.
function outline(context, tile, map, region, picked) {
  const [x, y, width, height] = cellBox(tile, map, region);
  context.save();
  context.lineWidth = 3.5;
  context.strokeStyle = "rgb(0 0 0 / 65%)";
  context.strokeRect(x + 1, y + 1, width - 2, height - 2);
  context.lineWidth = 1.75;
  context.strokeStyle = "#fff";
  if (picked) context.setLineDash([5, 3]);
  context.strokeRect(x + 1, y + 1, width - 2, height - 2);
  context.restore();
}

// The edges of a moment: light on dark over pictures, as outlines are; over the curve in the color of text.
function drawMoment(context, answer, time, width, height, overCurve) {
  const scale = width / (answer.end - answer.start);
  const seconds = spacing(answer);
  const text = getComputedStyle(context.canvas).color;
  const x = (time - seconds / 2 - answer.start) * scale;
  const lines = (color, thickness) => {
    context.strokeStyle = color;
    context.lineWidth = thickness;
    for (const edge of [x, x + seconds * scale]) {
      context.beginPath();
      context.moveTo(edge, 0);
      context.lineTo(edge, height);
      context.stroke();
    }
  };
  context.save();
  if (overCurve) {
    context.fillStyle = text;
    context.globalAlpha = 0.12;
    context.fillRect(x, 0, seconds * scale, height);
    context.globalAlpha = 1;
    lines(text, 1.5);
  } else {
    lines("rgb(0 0 0 / 65%)", 3.5);
    lines("#fff", 1.75);
  }
  context.restore();
}

// Moments that can be picked: those of the first sense.
const moments = (answer) => [...new Set(answer.lanes[0]?.times ?? [])];
const spacing = (answer) => answer.lanes[0]?.seconds ?? 1;

// The sums over each moment, a line a sense on one scale with its zero line.
function drawCurve(canvas, answer, attribution, state) {
  const width = canvas.parentElement.clientWidth;
  const context = prepare(canvas, width, CURVE + AXIS);
  const scale = width / (answer.end - answer.start);
  const style = getComputedStyle(canvas);
  const maps = Object.entries(attribution?.maps ?? {});
  const all = maps.flatMap(([, map]) => map.sums);
  const high = Math.max(0, ...all);
  const low = Math.min(0, ...all);
  const span = Math.max(high - low, attribution?.unit === "nats" ? 4 * NEGLIGIBLE : 1e-9);
  const top = high + (span - (high - low)) / 2;
  const y = (value) => PAD + ((top - value) / span) * (CURVE - 2 * PAD);
  context.strokeStyle = context.fillStyle = style.color;
  context.globalAlpha = 0.4;
  if (maps.length) context.fillRect(0, Math.round(y(0)), width, 1);
  context.globalAlpha = 1;
  drawSeconds(context, answer, style, width, scale);
  for (const [sense, map] of maps) {
    const points = map.times.map((time, i) => [(time - answer.start) * scale, y(map.sums[i])]);
    context.strokeStyle = context.fillStyle = answer.senses[sense].color;
    context.lineWidth = 2;
    context.lineJoin = "round";
    context.beginPath();
    for (const point of points) context.lineTo(...point);
    context.stroke();
    if (points.length * 8 > width) continue; // as dense as dots
    for (const [left, top] of points) {
      context.beginPath();
      context.arc(left, top, 2.75, 0, 2 * Math.PI);
      context.fill();
    }
  }
  if (state.pick && state.pick.lane === undefined) drawMoment(context, answer, state.pick.time, width, CURVE, true);
  return [low, high];
}

function drawSeconds(context, answer, style, width, scale) {
  const step = STEPS.find((each) => each * scale >= 84) ?? STEPS.at(-1);
  context.font = `12px ${style.fontFamily}`;
  context.textBaseline = "bottom";
  context.globalAlpha = 0.8;
  for (let time = Math.ceil(answer.start / step) * step; time <= answer.end + 1e-6; time += step) {
    const x = (time - answer.start) * scale;
    context.textAlign = x < 16 ? "left" : x > width - 16 ? "right" : "center";
    context.fillRect(Math.min(width - 1, x), CURVE, 1, 4);
    context.fillText(clock(time, answer.end), Math.min(width, x), CURVE + AXIS);
  }
  context.globalAlpha = 1;
}

// The picture and its cell under a point of a lane; null between pictures.
function cellAt(canvas, lane, grid, event) {
  const box = canvas.getBoundingClientRect();
  const [x, y] = [event.clientX - box.left, event.clientY - box.top];
  const picture = (canvas.tiles ?? []).findIndex((tile) => x >= tile.x && x < tile.x + tile.width);
  if (picture < 0) return null;
  const tile = canvas.tiles[picture];
  const inside = (part, size) => Math.max(0, Math.min(size - 1, Math.floor(part * size)));
  return {
    picture,
    row: inside((y - tile.y) / tile.height, grid[0]),
    column: inside((x - tile.x) / tile.width, grid[1]),
  };
}
