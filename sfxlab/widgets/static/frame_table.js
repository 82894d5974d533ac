// Rows of frames. The browser holds a few thousand of millions: blocks of rows are asked for as they come into sight.

const ROW = 22; // px
const BLOCK = 100; // rows that are asked for together
const KEPT = 60; // blocks
const TALLEST = 8e6; // px; browsers limit the height of an element
const WIDTHS = { frame: 80, status: 84, n_peaks: 60, n_crystals: 66, explained: 98, resolution: 96, n_reflections: 92, ice: 48, tags: 110, reason: 330, photon_energy: 86, event: 110, path: 260, alpha: 58, beta: 58, gamma: 58, state: 84, status_before: 104, status_after: 88, lattices_before: 116, lattices_after: 60, lattices_kept: 60, rotation: 76, strain: 84, reason_before: 300, reason_after: 300, frame_after: 80 };
const STATES = ["status", "status_before", "status_after", "state"];

const element = (tag, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
};

const shown = (name, value) => {
  if (value === null || value === undefined) return "";
  if (typeof value !== "number") return value;
  if (name === "frame" || name === "frame_after") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e5 && !"abc".includes(name) && !["alpha", "beta", "gamma", "resolution", "explained"].includes(name)) return String(value);
  const digits = { explained: 0, photon_energy: 1, resolution: 2, ice: 1, rotation: 3, strain: 3 }[name] ?? 2;
  return value.toFixed(digits);
};

function render({ model, el }) {
  const client = crypto.randomUUID?.() ?? String(Math.random());
  const blocks = new Map();
  let top = 0; // the row at the upper edge, a fraction
  let asked = null, wanted = null; // blocks
  let anchor = -1, chosen = null, placed = 0;
  let followed = model.get("frame"), toShow = null;

  const box = element("div", { className: "sfxlab frame-table" });
  box.style.height = `${model.get("height")}px`;
  box.dataset.lmSuppressShortcuts = "true";
  const filter = element("input", { type: "text", spellcheck: false, placeholder: "filter: status = hit and n_peaks > 60   ·   reason ~ \"wrong cell\"   ·   tags = ice", ariaLabel: "filter" });
  const offered = model.get("presets");
  const presets = offered.map(([label, text]) => element("button", { textContent: label, onclick: () => setFilter(text), title: text || "no filter" }));
  const worst = element("button", { textContent: "worst first", title: model.get("worst_means"), onclick: () => sortBy("worst", true) });
  const only = element("input", { type: "checkbox" });
  const onlyLabel = element("label", { className: "quiet" }, only, " selected only");
  const tagName = element("input", { type: "text", className: "tag-name", placeholder: "tag", ariaLabel: "tag" });
  const tagButton = element("button", { textContent: "tag", title: "give the marked rows this tag" });
  const count = element("span", { className: "quiet count" });
  const message = element("div", { className: "message", role: "alert" });
  const head = element("div", { className: "head" });
  const rows = element("div", { className: "rows" });
  const view = element("div", { className: "window" }, rows);
  const spacer = element("div");
  const scroller = element("div", { className: "scroller", tabIndex: 0, role: "grid", ariaLabel: "frames" }, view, spacer);
  const empty = element("div", { className: "quiet empty", textContent: "no frame passes the filter" });
  box.append(
    element("div", { className: "row bar" }, worst, ...presets, filter, onlyLabel, tagName, tagButton, count),
    message, element("div", { className: "sheet" }, head, scroller, empty),
  );
  el.append(box);
  box.addEventListener("keydown", event => event.stopPropagation());

  const columns = () => model.get("columns");
  const widthOf = column => WIDTHS[column.name] ?? 66;
  const total = () => columns().reduce((sum, column) => sum + widthOf(column), 0);
  const height = () => Math.max(scroller.clientHeight, ROW);
  const fitting = () => height() / ROW;
  const last = () => Math.max(0, model.get("n_shown") - fitting());
  const set = (name, value) => { model.set(name, value); model.save_changes(); };

  function setFilter(text) { filter.value = text; set("filter", text); }
  function sortBy(name, descending) { model.set("sort", name); model.set("descending", descending); model.save_changes(); moveTo(0); }

  function drawHead() {
    const sort = model.get("sort"), descending = model.get("descending");
    head.replaceChildren(...columns().map(column => {
      const sorted = sort === column.name;
      const button = element("button", { className: `${column.kind} ${sorted ? "sorted" : ""}`, title: `sort by ${column.label}` });
      button.style.width = `${widthOf(column)}px`;
      button.dataset.column = column.name;
      button.append(column.label, element("small", { textContent: column.unit ? ` ${column.unit}` : "" }), sorted ? (descending ? " ▾" : " ▴") : "");
      button.onclick = () => sortBy(column.name, sorted ? !descending : column.kind === "number" && !"abc".includes(column.name) && column.name !== "frame");
      return button;
    }));
    worst.classList.toggle("on", sort === "worst");
  }

  function drawBar() {
    const n = model.get("n_shown"), all = model.get("n_frames"), selected = model.get("n_selected");
    const text = value => value.toLocaleString("en");
    count.textContent = `${n === all ? "" : `${text(n)} of `}${text(all)} frames${selected ? `, ${text(selected)} selected` : ""}`;
    message.textContent = model.get("message");
    if (document.activeElement !== filter) filter.value = model.get("filter");
    presets.forEach((button, i) => button.classList.toggle("on", offered[i][1] === model.get("filter")));
    only.checked = model.get("only_selected");
    const tags = model.get("can_tag") && !model.get("disabled");
    for (const control of [tagName, tagButton]) { control.hidden = !model.get("can_tag"); control.disabled = !tags; }
    empty.hidden = n > 0;
  }

  function lineOf(place, row) {
    const line = element("div", { className: `line ${place % 2 ? "odd" : ""}`, role: "row" });
    line.dataset.place = place;
    line.style.top = `${(place - top) * ROW}px`;
    line.style.width = `${total()}px`;
    if (!row) { line.classList.add("waiting"); line.textContent = " …"; return line; }
    for (const column of columns()) {
      const value = shown(column.name, row[column.name]);
      const cell = element("span", { className: column.kind });
      cell.style.width = `${widthOf(column)}px`;
      if (column.name === "tags") cell.append(...value.split(", ").filter(Boolean).map(tag => element("span", { className: "tag", textContent: tag })));
      else { cell.textContent = value; if (column.kind === "text") cell.title = value; }
      if (STATES.includes(column.name)) cell.classList.add("status", value);
      line.append(cell);
    }
    line.classList.toggle("shown", row.frame === model.get("frame"));
    line.classList.toggle("chosen", chosen !== null && place >= chosen[0] && place <= chosen[1]);
    return line;
  }

  function draw() {
    top = Math.min(Math.max(0, top), last());
    const first = Math.floor(top), end = Math.min(model.get("n_shown"), Math.ceil(top + fitting()));
    const lines = [];
    for (let place = first; place < end; place++) {
      const block = blocks.get(Math.floor(place / BLOCK));
      const row = block && Object.fromEntries(Object.entries(block).map(([name, values]) => [name, values[place % BLOCK]]));
      lines.push(lineOf(place, row));
    }
    rows.replaceChildren(...lines);
    head.scrollLeft = scroller.scrollLeft;
    ask(Math.floor(first / BLOCK), Math.floor(Math.max(first, end - 1) / BLOCK));
  }

  // One question at a time: while one is under way only the latest place is remembered.
  function ask(from, to) {
    const near = [];
    for (let block = from; block <= to; block++) near.push(block);
    near.push(to + 1, from - 1);
    wanted = near.find(block => block >= 0 && block * BLOCK < model.get("n_shown") && !blocks.has(block)) ?? null;
    if (asked !== null || wanted === null) return;
    asked = wanted;
    model.send({ kind: "rows", client, first: asked * BLOCK, count: BLOCK });
  }

  function answered(content) {
    if (content.kind !== "rows" || content.client !== client) return;
    asked = null;
    if (content.version === model.get("version")) {
      blocks.set(content.first / BLOCK, content.columns);
      if (blocks.size > KEPT) blocks.delete(blocks.keys().next().value);
      if (toShow !== null) show(toShow);
    }
    draw();
  }

  function measure() {
    spacer.style.height = `${Math.min(TALLEST, model.get("n_shown") * ROW)}px`;
    spacer.style.width = `${total()}px`;
  }

  // Where a table is taller than an element may be, the bar stands for all rows and the wheel still moves by single ones.
  function moveTo(place) {
    top = Math.min(Math.max(0, place), last());
    const room = scroller.scrollHeight - scroller.clientHeight;
    placed = last() ? Math.round(top / last() * room) : 0;
    scroller.scrollTop = placed;
    draw();
  }
  scroller.addEventListener("scroll", () => {
    const room = scroller.scrollHeight - scroller.clientHeight;
    if (Math.abs(scroller.scrollTop - placed) > 1 && room > 0) { placed = scroller.scrollTop; top = placed / room * last(); }
    requestAnimationFrame(draw);
  });
  scroller.addEventListener("wheel", event => {
    if (event.ctrlKey || Math.abs(event.deltaX) > Math.abs(event.deltaY)) return;
    const step = event.deltaY * (event.deltaMode === 1 ? ROW : event.deltaMode === 2 ? height() : 1) / ROW;
    if ((step < 0 && top <= 0) || (step > 0 && top >= last())) return;
    event.preventDefault();
    moveTo(top + step);
  }, { passive: false });

  const frameAt = place => blocks.get(Math.floor(place / BLOCK))?.frame?.[place % BLOCK];
  function show(place) {
    const frame = frameAt(place);
    toShow = frame === undefined ? place : null;
    if (frame === undefined || model.get("disabled")) return;
    followed = frame;
    set("frame", frame);
  }
  function mark(place, extended) {
    if (!extended || anchor < 0) anchor = place;
    chosen = [Math.min(anchor, place), Math.max(anchor, place)];
    if (extended && !model.get("disabled")) model.send({ kind: "select", first: chosen[0], last: chosen[1] });
  }
  rows.addEventListener("click", event => {
    const place = Number(event.target.closest(".line")?.dataset.place);
    if (Number.isNaN(place)) return;
    mark(place, event.shiftKey);
    if (!event.shiftKey) show(place);
    scroller.focus({ preventScroll: true });
    draw();
  });
  scroller.addEventListener("keydown", event => {
    const n = model.get("n_shown"), page = Math.floor(fitting()) - 1;
    const here = anchor >= 0 ? (event.shiftKey && chosen ? (chosen[0] === anchor ? chosen[1] : chosen[0]) : anchor) : Math.floor(top);
    const to = { ArrowDown: here + 1, ArrowUp: here - 1, PageDown: here + page, PageUp: here - page, Home: 0, End: n - 1 }[event.key];
    if (to === undefined) { if (event.key === "Enter") show(here); return; }
    event.preventDefault();
    const place = Math.min(Math.max(0, to), n - 1);
    mark(place, event.shiftKey);
    if (place < top) moveTo(place);
    else if (place > top + fitting() - 1) moveTo(place - fitting() + 1);
    if (!event.shiftKey) show(place);
    draw();
  });

  let typing = 0;
  filter.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => set("filter", filter.value), 350); });
  filter.addEventListener("keydown", event => { if (event.key === "Enter") { clearTimeout(typing); set("filter", filter.value); } });
  only.addEventListener("change", () => set("only_selected", only.checked));
  const tag = () => {
    const place = chosen ?? (model.get("place") >= 0 ? [model.get("place"), model.get("place")] : null);
    if (place && tagName.value.trim()) model.send({ kind: "tag", first: place[0], last: place[1], tag: tagName.value.trim() });
  };
  tagButton.addEventListener("click", tag);
  tagName.addEventListener("keydown", event => { if (event.key === "Enter") tag(); });

  const renewed = () => { blocks.clear(); asked = null; anchor = -1; chosen = toShow = null; measure(); drawBar(); drawHead(); moveTo(top); };
  // Where others go, the table goes; it stays where it is when the same frame comes to another place.
  const follow = () => {
    const place = model.get("place");
    if (model.get("frame") !== followed && place >= 0 && (place < top || place > top + fitting() - 1)) moveTo(place - fitting() / 2);
    followed = model.get("frame");
    draw();
  };
  model.on("change:version", renewed);
  model.on("change:filter", () => { top = 0; });
  model.on("change:n_frames change:n_shown change:n_selected change:message change:filter change:only_selected change:disabled change:can_tag", drawBar);
  model.on("change:sort change:descending change:columns", drawHead);
  model.on("change:frame", draw);
  model.on("change:place", follow);
  model.on("msg:custom", answered);
  const size = new ResizeObserver(() => { measure(); draw(); });
  size.observe(scroller);
  renewed();
  return () => size.disconnect();
}

export default { render };
