"use strict";
// What the page carries: one block of JSON for each screen, read when the screen is turned to.

const HIDDEN = 0, FAINT = 1, NORMAL = 2, LARGE = 3;  // how a point is drawn: the fourth byte of its color

// Okabe and Ito, "Color Universal Design", 2008: told apart with any kind of color vision. Black and
// yellow are left out, each invisible on one of the two backgrounds; lighter ones follow, then darker.
const PALETTE = [[213, 94, 0], [0, 114, 178], [0, 150, 110], [204, 100, 160], [230, 155, 0],
  [86, 180, 233], [140, 120, 60], [120, 100, 200]];
const NEIGHBORS = PALETTE[1];
// Viridis; its ends are left out where they would sink into the background.
const RAMP = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141],
  [39, 173, 129], [92, 200, 99], [170, 220, 50], [253, 231, 37]];
const THEMES = {
  light: { faint: [190, 193, 199], large: [214, 30, 30], ramp: [0.02, 0.86], outline: [0, 114, 178] },
  dark: { faint: [84, 89, 98], large: [255, 92, 84], ramp: [0.16, 1], outline: [86, 180, 233] },
};

function mix(a, b, share) {
  return a.map((value, k) => value + share * (b[k] - value));
}

function rampColor(share, theme) {
  const [low, high] = theme.ramp;
  const place = Math.min(low + share * (high - low), 0.99999) * (RAMP.length - 1);
  return mix(RAMP[Math.floor(place)], RAMP[Math.floor(place) + 1], place % 1);
}

function classColor(label) {
  const shift = [[0, 0], [255, 0.45], [0, 0.35]][Math.floor(label / PALETTE.length) % 3];
  return mix(PALETTE[label % PALETTE.length], [shift[0], shift[0], shift[0]], shift[1]);
}

function unpack({ type, data }) {
  const text = atob(data), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  const kinds = { u1: Uint8Array, u2: Uint16Array, u4: Uint32Array, i2: Int16Array, f4: Float32Array };
  return new kinds[type](bytes.buffer);
}

function unpackPoints(packed) {
  return Float32Array.from(unpack(packed), (value) => value / 32767);
}

// Every coloring of every cloud is a pane of the screen; panes of one cloud share its positions.
function decodeScreen(number) {
  const screen = JSON.parse(document.getElementById(`screen-${number}`).textContent);
  screen.panes = [];
  for (const cloud of screen.clouds) {
    cloud.xyz = unpackPoints(cloud.points);
    cloud.count = cloud.xyz.length / 3;
    if (cloud.outline) {
      cloud.outline.xyz = unpackPoints(cloud.outline.points);
      cloud.outline.visible = true;
    }
    cloud.panes = cloud.colorings.map((coloring) => decodePane(cloud, coloring));
    screen.panes.push(...cloud.panes);
  }
  return screen;
}

function decodePane(cloud, coloring) {
  const given = coloring.values ? unpack(coloring.values) : null;
  const values = given || Float32Array.from({ length: cloud.count }, (_, i) => cloud.xyz[3 * i + 2]);
  let low = Infinity, high = -Infinity, missing = 0;
  for (const value of values) {
    if (Number.isNaN(value)) missing++;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  const counts = coloring.classes && coloring.classes.map(() => 0);
  if (counts) for (const label of values) counts[label]++;
  return {
    cloud, coloring, values, low, high, missing, counts, isHeight: !given, hidden: new Set(),
    neighbors: coloring.neighbors && unpack(coloring.neighbors), tints: null,
  };
}

// The rows around the chosen point, its center first; null if no point is chosen.
function neighborRows({ cloud, coloring, neighbors }) {
  if (!neighbors || cloud.chosen === undefined) return null;
  const width = coloring.width;
  return neighbors.subarray(cloud.chosen * width, (cloud.chosen + 1) * width);
}

function tint(pane, theme) {
  const { cloud, coloring, values, low, high } = pane, tints = new Uint8Array(4 * cloud.count);
  const put = (i, color, style) => {
    for (let k = 0; k < 3; k++) tints[4 * i + k] = color[k];
    tints[4 * i + 3] = style;
  };
  const rows = neighborRows(pane);
  if (rows) {
    for (let i = 0; i < cloud.count; i++) put(i, theme.faint, FAINT);
    for (const row of rows) put(row, NEIGHBORS, NORMAL);
    put(rows[0], theme.large, LARGE);
  } else if (coloring.classes) {
    const table = coloring.classes.map((_, label) => classTint(pane, label, theme));
    for (let i = 0; i < cloud.count; i++) put(i, ...table[values[i]]);
  } else {
    const table = Array.from({ length: 256 }, (_, k) => rampColor(k / 255, theme));
    const scale = 255 / (high - low || 1);
    for (let i = 0; i < cloud.count; i++) {
      if (Number.isNaN(values[i])) put(i, theme.faint, FAINT);
      else put(i, table[Math.round((coloring.reversed ? high - values[i] : values[i] - low) * scale)], NORMAL);
    }
  }
  if (!rows && cloud.marked !== null) put(cloud.marked, theme.large, LARGE);
  return tints;
}

function classTint({ coloring, hidden }, label, theme) {
  if (hidden.has(label)) return [theme.faint, HIDDEN];
  const faint = coloring.background.indexOf(label);
  if (faint >= 0) return [theme.faint, FAINT];
  // Classes in the background take no color from the palette.
  const before = coloring.background.filter((other) => other < label).length;
  return [classColor(label - before), NORMAL];
}
