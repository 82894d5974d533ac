// Small charts in SVG: lines, bands, bars, points, and ranges to drag. Colours come from the style sheet.

export const svg = (tag, attributes = {}, parent = null) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  parent?.append(made);
  return made;
};

export const node = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

export const known = value => typeof value === "number" && Number.isFinite(value);

// Round numbers between two limits, about `count` of them, with as many decimals as tell them apart.
export function ticks(low, high, count) {
  if (!(high > low)) return [[low, String(low)]];
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find(factor => factor * power >= rough);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) found.push([i * step, (i * step).toFixed(decimals)]);
  return found;
}

const SPACINGS = [30, 10, 5, 4, 3, 2.5, 2.2, 2, 1.8, 1.6, 1.5, 1.4, 1.3, 1.2, 1.1, 1, 0.9, 0.8];
// Spacings d (Å) on an axis of 1/d².
export function spacings(low, high) {
  const found = [];
  for (const spacing of SPACINGS) {
    const place = spacing ** -2;
    if (place >= low && place <= high && (!found.length || place - found.at(-1)[0] > 0.09 * (high - low))) found.push([place, String(spacing)]);
  }
  return found;
}

export const extent = (values, margin = 0.05) => {
  const finite = values.filter(known);
  if (!finite.length) return [0, 1];
  const low = Math.min(...finite), high = Math.max(...finite), room = (high - low || Math.abs(high) || 1) * margin;
  return [low - room, high + room];
};

// A chart that fills the width of its parent. `draw` takes x and y limits, ticks, labels and marks:
//   {kind: "line", x, y} {kind: "band", x, low, high} {kind: "points", x, y} {kind: "bars", edges, counts, from}
//   {kind: "rule", x} {kind: "level", y}; each with a `colour`, a name of the style sheet, and `dashed`, `faint`.
export function chart(parent, { height = 150, title = "", label = title, left = 38, bottom = 30 } = {}) {
  const head = node("div", { className: "chart-head" }, node("b", { textContent: title }));
  const legend = node("span", { className: "legend" }), told = node("span", { className: "told" });
  head.append(legend, told);
  const picture = svg("svg", { role: "img", "aria-label": label, height });
  const box = node("div", { className: "chart" }, head, picture);
  parent.append(box);
  const margin = { left, right: 10, top: 6, bottom };
  let content = null, range = null, onRange = null, onPick = null, onPoint = null, dragged = null;

  const width = () => Math.max(120, box.clientWidth || 300);
  const scale = () => {
    const [x0, x1] = content.x, [y0, y1] = content.y, w = width() - margin.left - margin.right, h = height - margin.top - margin.bottom;
    return {
      x: value => margin.left + (value - x0) / (x1 - x0 || 1) * w,
      y: value => margin.top + h - (Math.min(Math.max(value, y0 - (y1 - y0)), y1 + (y1 - y0)) - y0) / (y1 - y0 || 1) * h,
      back: pixel => x0 + (pixel - margin.left) / w * (x1 - x0),
    };
  };

  const pathOf = (xs, ys, at) => {
    let path = "", pen = false;
    xs.forEach((value, i) => {
      if (!known(value) || !known(ys[i])) { pen = false; return; }
      path += `${pen ? "L" : "M"}${at.x(value).toFixed(1)} ${at.y(ys[i]).toFixed(1)}`;
      pen = true;
    });
    return path;
  };

  function drawMark(mark, at, group) {
    const name = `${mark.kind} ${mark.colour ?? "blue"} ${mark.dashed ? "dashed" : ""} ${mark.faint ? "faint" : ""}`;
    if (mark.kind === "line") svg("path", { class: name, d: pathOf(mark.x, mark.y, at) }, group);
    if (mark.kind === "points") {
      let path = "";
      mark.x.forEach((value, i) => { if (known(value) && known(mark.y[i])) path += `M${at.x(value).toFixed(1)} ${at.y(mark.y[i]).toFixed(1)}h0`; });
      svg("path", { class: name, d: path, "stroke-width": mark.size ?? 4 }, group);
    }
    if (mark.kind === "band") {
      const inside = mark.x.map((value, i) => i).filter(i => known(mark.x[i]) && known(mark.low[i]) && known(mark.high[i]));
      if (inside.length) {
        const there = inside.map(i => `${at.x(mark.x[i]).toFixed(1)} ${at.y(mark.high[i]).toFixed(1)}`);
        const back = inside.reverse().map(i => `${at.x(mark.x[i]).toFixed(1)} ${at.y(mark.low[i]).toFixed(1)}`);
        svg("path", { class: name, d: `M${there.join("L")}L${back.join("L")}Z` }, group);
      }
    }
    if (mark.kind === "bars") {
      let path = "";
      mark.counts.forEach((count, i) => {
        const from = mark.from?.[i] ?? 0;
        if (!count) return;
        const x0 = at.x(mark.edges[i]), x1 = at.x(mark.edges[i + 1]), gap = x1 - x0 > 3 ? 0.5 : 0;
        path += `M${(x0 + gap).toFixed(1)} ${at.y(from).toFixed(1)}V${at.y(from + count).toFixed(1)}H${(x1 - gap).toFixed(1)}V${at.y(from).toFixed(1)}Z`;
      });
      svg("path", { class: name, d: path }, group);
    }
    if (mark.kind === "rule" && known(mark.x)) svg("path", { class: name, d: `M${at.x(mark.x)} ${margin.top}V${height - margin.bottom}` }, group);
    if (mark.kind === "level" && known(mark.y)) svg("path", { class: name, d: `M${margin.left} ${at.y(mark.y)}H${width() - margin.right}` }, group);
  }

  function drawRange() {
    picture.querySelector(".range")?.remove();
    const shown = dragged ?? range;
    if (!shown || !content) return;
    const at = scale(), limit = value => Math.min(Math.max(value, margin.left), width() - margin.right);
    const x0 = limit(at.x(shown[0])), x1 = limit(at.x(shown[1]));
    svg("rect", { class: "range", x: x0, y: margin.top, width: Math.max(1, x1 - x0), height: height - margin.top - margin.bottom }, picture);
  }

  let clips = 0;
  function redraw() {
    picture.replaceChildren();
    picture.setAttribute("width", width());
    if (!content) return;
    const at = scale(), w = width(), base = height - margin.bottom;
    const name = `clip-${Math.random().toString(36).slice(2)}-${clips++}`;
    svg("rect", { x: margin.left, y: margin.top - 2, width: w - margin.left - margin.right, height: base - margin.top + 4 }, svg("clipPath", { id: name }, svg("defs", {}, picture)));
    const axes = svg("g", { class: "axes" }, picture);
    for (const [value, text] of content.xTicks ?? ticks(...content.x, Math.max(2, w / 75))) {
      svg("path", { d: `M${at.x(value)} ${margin.top}V${base}` }, axes);
      svg("text", { x: at.x(value), y: base + 13, "text-anchor": "middle" }, axes).textContent = text;
    }
    for (const [value, text] of content.yTicks ?? ticks(...content.y, Math.max(2, height / 50))) {
      svg("path", { d: `M${margin.left} ${at.y(value)}H${w - margin.right}` }, axes);
      svg("text", { x: margin.left - 5, y: at.y(value) + 4, "text-anchor": "end" }, axes).textContent = text;
    }
    if (content.label) svg("text", { class: "label", x: w - margin.right, y: height - 3, "text-anchor": "end" }, axes).textContent = content.label;
    const group = svg("g", { "clip-path": `url(#${name})` }, picture);
    for (const mark of content.marks) drawMark(mark, at, group);
    drawRange();
    legend.replaceChildren(...content.marks.filter(mark => mark.name).map(mark => node("span", { className: `key ${mark.colour ?? "blue"} ${mark.dashed ? "dashed" : ""}`, textContent: mark.name })));
  }

  const place = event => event.clientX - picture.getBoundingClientRect().left;
  picture.addEventListener("pointerdown", event => {
    if (!content || (!onRange && !onPick)) return;
    const start = scale().back(place(event)), from = place(event);
    picture.setPointerCapture(event.pointerId);
    const move = moved => { if (onRange) { dragged = [start, scale().back(place(moved))].sort((a, b) => a - b); drawRange(); } };
    const end = ended => {
      picture.removeEventListener("pointermove", move);
      const found = dragged;
      dragged = null;
      if (Math.abs(place(ended) - from) < 4) { drawRange(); if (onPick) onPick(start); else onRange?.(null); }
      else if (found) { range = found; drawRange(); onRange(found); }
    };
    picture.addEventListener("pointermove", move);
    picture.addEventListener("pointerup", end, { once: true });
  });
  picture.addEventListener("pointermove", event => { if (content && onPoint) told.textContent = onPoint(scale().back(place(event))) ?? ""; });
  picture.addEventListener("pointerleave", () => { told.textContent = ""; });

  const size = new ResizeObserver(redraw);
  size.observe(box);
  return {
    box,
    draw(next) { content = next; redraw(); },
    setRange(next) { range = next; drawRange(); },
    onRange(callback) { onRange = callback; picture.classList.toggle("draggable", Boolean(callback)); },
    onPick(callback) { onPick = callback; picture.classList.toggle("clickable", Boolean(callback)); },
    onPoint(callback) { onPoint = callback; },
    end() { size.disconnect(); },
  };
}

// A value that the kernel works on is sent only when the kernel has answered the one before, and then the newest.
export function paced(send) {
  let busy = false, waiting = null, patience = 0;
  const next = value => {
    busy = true;
    clearTimeout(patience);
    patience = setTimeout(answered, 5000);
    send(value);
  };
  const answered = () => {
    busy = false;
    clearTimeout(patience);
    if (waiting !== null) { const value = waiting; waiting = null; next(value); }
  };
  return { send(value) { if (busy) waiting = value; else next(value); }, answered };
}
