// Mouse, fingers and keys; and the start.

const pointers = new Map();
let pressed = null, hovered = null;

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  pressed = pointers.size === 1 ? { x: event.clientX, y: event.clientY, dragged: false } : null;
  $("hint").classList.add("seen");
});

canvas.addEventListener("pointermove", (event) => {
  const last = pointers.get(event.pointerId);
  if (!last) {
    if (event.pointerType === "mouse") hover(event);
    return;
  }
  const x = event.clientX - last.x, y = event.clientY - last.y;
  if (pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) > 4) pressed.dragged = true;
  if (pressed && !pressed.dragged) return;
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, spot]) => spot);
    const before = Math.hypot(last.x - other.x, last.y - other.y);
    const after = Math.hypot(event.clientX - other.x, event.clientY - other.y);
    move(x / 2, y / 2);
    zoomAt((event.clientX + other.x) / 2, (event.clientY + other.y) / 2, after / (before || 1));
  } else if (event.shiftKey || event.buttons & 6) {
    move(x, y);
  } else if (pointers.size === 1) {
    const pane = paneAt(event.clientX * ratio, event.clientY * ratio) || panes[0];
    const perPixel = Math.PI * ratio / Math.min(pane.rect.width, pane.rect.height);
    turn(perPixel * x, perPixel * y);
  }
  if (focus && !focus.pinned) setFocus(null);
  pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
});

function hover(event) {
  const start = !hovered;
  hovered = event;
  if (!start) return;
  requestAnimationFrame(() => {
    const last = hovered;
    hovered = null;
    if (!last || pointers.size) return;
    const { clientX, clientY } = last;
    const found = pick(clientX, clientY, SLOP.mouse);
    if (found || (focus && !focus.pinned)) setFocus(found, false);
  });
}

canvas.addEventListener("pointerup", (event) => {
  if (pressed && !pressed.dragged && event.button === 0) {
    const found = pick(event.clientX, event.clientY, SLOP[event.pointerType] || SLOP.touch);
    choose(found);
    setFocus(found, event.pointerType !== "mouse");
  }
});

function lift(event) {
  pointers.delete(event.pointerId);
  if (!pointers.size) pressed = null;
}
canvas.addEventListener("lostpointercapture", lift);
canvas.addEventListener("pointercancel", lift);
canvas.addEventListener("pointerleave", (event) => {
  hovered = null;
  if (event.pointerType === "mouse" && focus && !focus.pinned) setFocus(null);
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("dblclick", turnBack);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  $("hint").classList.add("seen");
  // A line is 16 pixels; a pinch on a touchpad comes as a wheel with Ctrl, in small steps.
  const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : event.deltaMode === 2 ? 400 : 1);
  zoomAt(event.clientX, event.clientY, Math.exp(-pixels * (event.ctrlKey ? 0.01 : 0.0015)));
}, { passive: false });

function zoomMiddle(factor) {
  const { rect } = panes[0];
  zoomAt((rect.x + rect.width / 2) / ratio, (rect.y + rect.height / 2) / ratio, factor);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const KEYS = {
  "PageDown": () => turnTo(current + 1), "PageUp": () => turnTo(current - 1),
  "Home": () => turnTo(0), "End": () => turnTo(index.length - 1),
  "+": () => zoomMiddle(1.25), "=": () => zoomMiddle(1.25), "-": () => zoomMiddle(0.8),
  "r": turnBack, "l": openList, "?": () => $("help").showModal(),
  "Escape": () => { setFocus(null); choose(null); },
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const arrow = ARROWS[event.key], action = KEYS[event.key] || KEYS[event.key.toLowerCase()];
  if (arrow && event.shiftKey) move(24 * arrow[0], 24 * arrow[1]);
  else if (arrow) turn(arrow[0] * Math.PI / 24, arrow[1] * Math.PI / 24);
  else if (/^[0-9]$/.test(event.key)) show(Number(event.key) - 1);
  else if (action) action();
  else return;
  event.preventDefault();
});

function openList() {
  if (index.length < 2) return;
  if (!$("entries").childElementCount) {
    index.forEach((title, number) => {
      const entry = element("button", { type: "button" }, element("small", {}, String(number + 1)), title);
      entry.addEventListener("click", () => {
        $("list").close();
        turnTo(number);
      });
      $("entries").append(element("li", {}, entry));
    });
  }
  for (const [number, { firstChild }] of [...$("entries").children].entries()) {
    firstChild.setAttribute("aria-current", String(number === current));
  }
  $("list").showModal();
  $("entries").children[current].scrollIntoView({ block: "center" });
}
$("filter").addEventListener("input", () => {
  const wanted = $("filter").value.toLowerCase();
  index.forEach((title, number) => {
    $("entries").children[number].hidden = !title.toLowerCase().includes(wanted);
  });
});
for (const dialog of document.querySelectorAll("dialog")) {
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
}
$("previous").onclick = () => turnTo(current - 1);
$("next").onclick = () => turnTo(current + 1);
$("list-open").onclick = openList;
$("help-open").onclick = () => $("help").showModal();
$("reset").onclick = turnBack;
window.addEventListener("resize", layOut);
dark.addEventListener("change", () => {
  readTheme();
  arrange();
});

$("pages").hidden = index.length < 2;
readTheme();
turnTo(0);
