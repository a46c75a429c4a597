// Text on the page: numbers, legends and what a point is. All of it is set as text, never as markup.

function element(name, properties, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

function css(color) {
  return `rgb(${color.map(Math.round).join(",")})`;
}

function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return String(Number(value.toPrecision(4))).replace("-", "\u2212");
}

function headingOf(screen, pane) {
  const lines = pane.cloud.title ? pane.cloud.title.split("\n") : [];
  if (pane.coloring.name && (!lines.length || pane.cloud.panes.length > 1)) lines.push(pane.coloring.name);
  return lines;
}

// x, y and z as they were given, before the cloud was turned upright and scaled.
function coordinates(screen, cloud, row) {
  const upright = [0, 1, 2].map((k) => cloud.xyz[3 * row + k] * screen.scale + screen.center[k]);
  const digits = Math.min(6, Math.max(0, 3 - Math.floor(Math.log10(screen.scale || 1))));
  return screen.axes.map((axis) => {
    const value = axis.reduce((sum, share, k) => sum + share * upright[k], 0);
    return (Math.abs(value) < 0.5 * 10 ** -digits ? 0 : value).toFixed(digits).replace("-", "\u2212");
  });
}

function valueText({ coloring, values }, row) {
  if (coloring.classes) return coloring.classes[values[row]];
  return Number.isNaN(values[row]) ? "none" : number(values[row]);
}

function labelOf(screen, pane, row) {
  const { cloud } = pane, [x, y, z] = coordinates(screen, cloud, row);
  const title = (cloud.title || screen.title).split("\n")[0];
  const lines = title ? [element("b", {}, title)] : [];
  lines.push(element("div", {}, `point ${number(row)} of ${number(cloud.count)}`));
  lines.push(element("div", {}, `x ${x}   y ${y}   z ${z}`.replaceAll("   ", "\u2003")));
  for (const other of cloud.panes) {
    if (other.isHeight) continue;
    const text = element("b", {}, valueText(other, row));
    lines.push(element("div", {}, `${other.coloring.name || "value"}: `, text));
  }
  const rows = neighborRows(pane);
  if (rows && rows.includes(row)) {
    lines.push(element("div", {}, row === rows[0] ? "the center" : "in the neighborhood"));
  }
  return lines;
}

function legendLine(color, text, count, visible, onClick) {
  const swatch = element("i");
  swatch.style.background = color;
  const line = element(onClick ? "button" : "div", { className: "line", onclick: onClick || null }, swatch, text);
  if (onClick) line.setAttribute("aria-pressed", String(visible));
  if (count !== undefined) line.append(element("small", {}, number(count)));
  return line;
}

// `refresh` draws again after an entry was switched on or off.
function legendOf(pane, theme, refresh) {
  const { cloud, coloring, low, high } = pane, legend = element("div", { className: "legend" });
  const outline = cloud.outline && coloring.outline;
  const rows = neighborRows(pane);
  if (rows) {
    legend.append(legendLine(css(theme.large), "center"));
    legend.append(legendLine(css(NEIGHBORS), "its neighborhood", new Set(rows).size));
    legend.append(legendLine(css(theme.faint), "other points"));
  } else if (coloring.classes) {
    coloring.classes.forEach((name, label) => {
      if (!pane.counts[label]) return;
      const shown = !pane.hidden.has(label);
      const color = css(classTint({ coloring, hidden: new Set() }, label, theme)[0]);
      legend.append(legendLine(color, name, pane.counts[label], shown, () => {
        pane.hidden[shown ? "add" : "delete"](label);
        refresh();
      }));
    });
  } else if (high > low && (!pane.isHeight || coloring.alone)) {
    legend.classList.add("scale");
    const ramp = element("div", { className: "ramp" });
    const stops = [0, 0.25, 0.5, 0.75, 1].map((share) => css(rampColor(share, theme)));
    ramp.style.background = `linear-gradient(to right, ${stops.join(",")})`;
    const ends = pane.isHeight ? ["low", "high"] : [number(low), number(high)];
    if (coloring.reversed) ends.reverse();
    const name = pane.isHeight ? "height" : coloring.name || "value";
    if (coloring.alone) legend.append(element("div", {}, name));  // or it stands above the pane
    legend.append(ramp);
    legend.append(element("div", { className: "ends" }, ...ends.map((text) => element("span", {}, text))));
    if (pane.missing) legend.append(legendLine(css(theme.faint), "none", pane.missing));
  }
  if (!rows && cloud.marked !== null && coloring === cloud.colorings[0]) legend.append(legendLine(css(theme.large), "marked point"));
  if (outline) {
    const color = css(mix(theme.background, theme.outline, 0.5));
    const { name, xyz, visible } = cloud.outline;
    legend.append(legendLine(color, name, undefined, visible, () => {
      cloud.outline.visible = !visible;
      refresh();
    }));
  }
  return legend;
}
