// The page: which screen is shown, how it is laid out, and what a person does with it.

const $ = (id) => document.getElementById(id);
const index = JSON.parse($("index").textContent);  // the titles of all screens
const START = { azimuth: -57 * Math.PI / 180, elevation: 22 * Math.PI / 180, zoom: 1, panX: 0, panY: 0 };
const SLOP = { mouse: 8, touch: 24 };  // how near to a point is at it, in CSS pixels
const MOST_KEPT = 6;  // screens that stay decoded
const FEW_POINTS = 10000, MOST_STEPS = 16;  // of a cloud that moves; a stride in WebGL ends at 255 bytes

const camera = { ...START };
const kept = new Map();
let current = -1, shown = null, panes = [], solo = -1;
let focus = null;  // the point that the label is about: { pane, row, pinned }
let waiting = false;  // for the next frame
let theme, ratio = 1;  // device pixels in a CSS pixel
let canvas = $("canvas"), renderer = createWebGL(canvas, redraw);
if (!renderer) {
  // A canvas that failed with WebGL gives nothing else.
  const fresh = canvas.cloneNode();
  canvas.replaceWith(fresh);
  canvas = fresh;
  renderer = createPlain(canvas);
}
document.documentElement.dataset.renderer = renderer.name;
const dark = window.matchMedia("(prefers-color-scheme: dark)");

function readTheme() {
  const text = getComputedStyle(document.documentElement).getPropertyValue("--background").trim();
  const background = [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));
  theme = { ...THEMES[dark.matches ? "dark" : "light"], background };
}

function turnTo(number) {
  number = Math.max(0, Math.min(index.length - 1, number));
  if (number === current) return;
  current = number;
  shown = kept.get(number) || decodeScreen(number);
  kept.delete(number);
  kept.set(number, shown);
  for (const [old, screen] of kept) {
    if (kept.size <= MOST_KEPT) break;
    kept.delete(old);
    for (const pane of screen.panes) release(pane);
  }
  solo = shown.side_by_side ? -1 : 0;
  focus = null;
  const title = shown.title.split("\n");
  $("title").textContent = title[0];
  $("details").textContent = title.slice(1).join("\n");
  document.title = title[0] || "Point clouds";
  $("place").textContent = `${number + 1} / ${index.length}`;
  $("previous").disabled = number === 0;
  $("next").disabled = number === index.length - 1;
  arrange();
}

function release({ cloud, tints }) {
  for (const array of [cloud.xyz, tints, cloud.outline && cloud.outline.xyz]) {
    if (array) renderer.forget(array);
  }
}

// Make the headings and legends of the panes that are shown, and color their points.
function arrange() {
  panes = solo < 0 ? shown.panes : [shown.panes[solo]];
  const several = shown.panes.length > 1;
  $("tabs").replaceChildren();
  if (several && shown.clouds.length === 1) {
    const tab = (text, which) => {
      const made = element("button", { type: "button", onclick: () => show(which) }, text);
      made.setAttribute("aria-pressed", String(solo === which));
      return made;
    };
    const names = shown.panes.map((pane, number) => tab(pane.coloring.name || "height", number));
    $("tabs").append(...(shown.side_by_side ? [tab("all", -1)] : []), ...names);
  }
  $("panes").replaceChildren(...panes.map((pane) => {
    if (pane.tints) renderer.forget(pane.tints);
    pane.tints = tint(pane, theme);
    pane.coloring.alone = panes.length === 1;
    pane.coloring.outline = pane === pane.cloud.panes[0];
    pane.legend = legendOf(pane, theme, arrange);
    pane.heading = element("h2");
    const [first, ...rest] = headingOf(shown, pane);
    if (first && panes.length > 1) pane.heading.append(first, ...rest.map((line) => element("span", {}, line)));
    else if (first && shown.clouds.length > 1) pane.heading.append(first);
    pane.box = element("section", { className: "pane" }, pane.heading);
    if (pane.legend.childElementCount) pane.box.append(pane.legend);
    return pane.box;
  }));
  const points = panes.reduce((sum, pane) => sum + pane.cloud.count, 0);
  canvas.setAttribute("aria-label", `${shown.title.replaceAll("\n", ", ")}: ${number(points)} points`);
  layOut();
}

function show(which) {
  solo = which < shown.panes.length ? which : solo;
  focus = null;
  arrange();
}

// Give each pane its place: as many columns as make the panes largest.
function layOut() {
  ratio = Math.min(window.devicePixelRatio || 1, 3);
  const width = window.innerWidth, height = window.innerHeight;
  const pixels = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== pixels[0] || canvas.height !== pixels[1]) [canvas.width, canvas.height] = pixels;
  const top = $("top").getBoundingClientRect().bottom + 4;
  const below = ["pages", "hint"].map((id) => $(id).getBoundingClientRect()).filter((box) => box.height);
  const bottom = Math.min(height, ...below.map((box) => box.top)) - 8;
  let columns = 1, best = 0;
  for (let tried = 1; tried <= panes.length; tried++) {
    const side = Math.min(width / tried, (bottom - top) / Math.ceil(panes.length / tried));
    if (side > best) [best, columns] = [side, tried];
  }
  const [w, h] = [width / columns, (bottom - top) / Math.ceil(panes.length / columns)];
  panes.forEach((pane, n) => {
    const x = (n % columns) * w, y = top + Math.floor(n / columns) * h;
    Object.assign(pane.box.style, { left: `${x}px`, top: `${y}px`, width: `${w}px`, height: `${h}px` });
    pane.box.classList.toggle("beside", n % columns > 0);
    pane.box.classList.toggle("below", columns === 1 && n > 0);
    const head = pane.heading.offsetHeight, foot = pane.legend.offsetHeight;
    // Above the legend if that makes the cloud no smaller.
    const free = Math.max(Math.min(w, h - head), h - head - foot - 12);
    // And beside it, as far as there is room, if all are below each other.
    const room = Math.max(0, w - free) / 2, aside = pane.legend.childElementCount ? pane.legend.offsetWidth + 12 : 0;
    const shift = columns > 1 || free < h - head ? 0 : Math.min(2 * room, Math.max(0, 2 * (aside - room)));
    pane.rect = scaled({ x: x + shift, y: y + head, width: w - shift, height: free });
    pane.clip = panes.length === 1
      ? { x: 0, y: 0, width: canvas.width, height: canvas.height } : scaled({ x, y, width: w, height: h });
    const side = Math.min(pane.rect.width, pane.rect.height);
    pane.base = Math.min(13 * ratio, Math.max(1.6 * ratio, 0.46 * side / Math.sqrt(pane.cloud.count || 1)));
  });
  redraw();
}

function scaled(rect) {
  return Object.fromEntries(Object.entries(rect).map(([key, value]) => [key, Math.round(value * ratio)]));
}

function redraw() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(drawNow);
}

// A large cloud on a slow machine: while it moves, every second point, or fewer, until frames follow
// each other quickly; all of them once it rests.
let step = 1, lastFrame = 0, moving = 0;
function adapt(time) {
  const between = time - lastFrame;
  lastFrame = time;
  if (!moving) return 1;
  const most = Math.max(...panes.map((pane) => pane.cloud.count));
  if (between > 45 && between < 3000 && most / step > FEW_POINTS) step = Math.min(MOST_STEPS, 2 * step);
  else if (between < 20) step = Math.max(1, step / 2);
  return step;
}

function moved() {
  clearTimeout(moving);
  moving = setTimeout(() => {
    moving = 0;
    redraw();
  }, 400);
  redraw();
}

function drawNow(time) {
  waiting = false;
  const grown = Math.sqrt(camera.zoom);
  for (const pane of panes) {
    pane.size = pane.base * grown;
    const outline = pane.coloring.outline && pane.cloud.outline;
    pane.outline = outline && outline.visible && {
      xyz: outline.xyz, color: theme.outline,
      // As wide as the grid that it is taken from is fine.
      size: 0.46 * outline.spacing * Math.min(pane.rect.width, pane.rect.height) * camera.zoom,
    };
  }
  renderer.draw(panes, camera, theme.background, adapt(time));
  placeLabel();
}

function placeLabel() {
  const label = $("label"), ring = $("ring");
  const visible = focus && panes.includes(focus.pane);
  label.hidden = ring.hidden = !visible;
  if (!visible) return;
  const { pane, row } = focus, spot = project(placement(pane, camera), pane.cloud.xyz, row);
  const x = spot.x / ratio, y = spot.y / ratio;
  const side = Math.max(12, pane.size * SIZES[pane.tints[4 * row + 3]] / spot.w / ratio + 6);
  Object.assign(ring.style, {
    width: `${side}px`, height: `${side}px`, transform: `translate(${x - side / 2}px,${y - side / 2}px)`,
  });
  const { offsetWidth: w, offsetHeight: h } = label;
  const left = x + 16 + w < window.innerWidth - 8 ? x + 16 : Math.max(8, x - 16 - w);
  const top = Math.max(8, Math.min(window.innerHeight - h - 8, y - h - 12 > 8 ? y - h - 12 : y + 16));
  label.style.transform = `translate(${Math.round(left)}px,${Math.round(top)}px)`;
}

function setFocus(found, pinned) {
  const same = focus && found && focus.pane === found.pane && focus.row === found.row;
  focus = found && { ...found, pinned };
  if (found && !same) $("label").replaceChildren(...labelOf(shown, found.pane, found.row));
  redraw();
}

function paneAt(x, y) {
  return panes.find(({ clip }) => x >= clip.x && x < clip.x + clip.width && y >= clip.y && y < clip.y + clip.height);
}

// The foremost point whose disc is at a place, or else the nearest to it; faint ones come last.
function pick(clientX, clientY, slop) {
  const x = clientX * ratio, y = clientY * ratio, pane = paneAt(x, y);
  if (!pane) return null;
  const place = placement(pane, camera), { cloud, tints } = pane;
  const { turn: t, factor, middleX, middleY } = place, { xyz } = cloud;
  let row = -1, best = Infinity;
  for (let i = 0; i < cloud.count; i++) {
    const style = tints[4 * i + 3];
    if (style === HIDDEN) continue;
    const px = xyz[3 * i], py = xyz[3 * i + 1], pz = xyz[3 * i + 2];
    const near = t[6] * px + t[7] * py + t[8] * pz, w = 1 - PERSPECTIVE * near;
    const reach = slop * ratio + 0.5 * pane.size * SIZES[style] / w;
    const right = middleX + factor * (t[0] * px + t[1] * py + t[2] * pz) / w - x;
    if (right > reach || right < -reach) continue;
    const below = middleY - factor * (t[3] * px + t[4] * py + t[5] * pz) / w - y;
    const distance = Math.hypot(right, below) - (reach - slop * ratio);
    if (distance > slop * ratio) continue;
    const cost = (distance > 0 ? 100 + distance : -near) + (style === FAINT ? 10 : 0);
    if (cost < best) [best, row] = [cost, i];
  }
  return row < 0 ? null : { pane, row };
}

// A click or tap at a point chooses it, where its neighbors are known; beside all points, none.
function choose(found) {
  if (found ? !found.pane.neighbors : !shown.clouds.some((cloud) => cloud.chosen !== undefined)) return;
  for (const cloud of shown.clouds) delete cloud.chosen;
  if (found) found.pane.cloud.chosen = found.row;
  focus = null;
  arrange();
}

function zoomAt(clientX, clientY, factor) {
  const pane = paneAt(clientX * ratio, clientY * ratio) || panes[0];
  const before = camera.zoom;
  camera.zoom = Math.max(0.2, Math.min(80, before * factor));
  const grown = camera.zoom / before, { rect } = pane, side = Math.min(rect.width, rect.height);
  const x = (clientX * ratio - rect.x - rect.width / 2) / side;
  const y = (clientY * ratio - rect.y - rect.height / 2) / side;
  camera.panX = x + grown * (camera.panX - x);
  camera.panY = y + grown * (camera.panY - y);
  moved();
}

function turn(x, y) {
  camera.azimuth -= x;
  camera.elevation = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, camera.elevation + y));
  moved();
}

function move(x, y) {
  const { rect } = panes[0], side = Math.min(rect.width, rect.height) / ratio;
  camera.panX += x / side;
  camera.panY += y / side;
  moved();
}

function turnBack() {
  Object.assign(camera, START);
  for (const cloud of shown.clouds) delete cloud.chosen;
  setFocus(null);
  arrange();
}
