const NAMES = ["a", "b", "c", "alpha", "beta", "gamma"];
const GREEK = { a: "a", b: "b", c: "c", alpha: "α", beta: "β", gamma: "γ" };
const COLOURS = ["green", "blue", "orange", "violet", "yellow", "grey"];

function render({ model, el }) {
  const box = node("div", { className: "sfxlab board cell-explorer" });
  box.dataset.lmSuppressShortcuts = "true";
  box.addEventListener("keydown", event => event.stopPropagation());
  const said = node("span", { className: "facts" }), busy = node("span", { className: "quiet" });
  const message = node("div", { className: "message", role: "alert" });
  const legend = node("span", { className: "chart-head" });
  const by = { centring: node("button", { textContent: "by centring" }), cluster: node("button", { textContent: "by cluster" }) };
  const zoom = node("button", { textContent: "zoom to selected", title: "histograms of the range of the selected crystals" });
  const all = node("button", { textContent: "select none", title: "take all ranges away" });
  const propose = node("button", { textContent: "propose cells" });
  const charts = node("div", { className: "charts" });
  const fit = node("div"), proposals = node("div");
  const path = node("input", { type: "text", value: "selected.cell", ariaLabel: "file to save the cell in" });
  const save = node("button", { textContent: "save .cell" });
  const saved = node("span", { className: "quiet" });
  const saving = node("div", { className: "row" }, path, save, saved);
  box.append(node("div", { className: "row" }, said, by.centring, by.cluster, zoom, all, propose, busy), message, legend, charts,
    node("div", { className: "below" }, fit, node("div", {}, proposals, saving)));
  el.append(box);

  let which = 0;
  const ranges = () => model.get("ranges");
  const pace = paced(next => model.send({ kind: "brush", ranges: next }));
  function brush(name, range) {
    if (model.get("disabled")) return;
    const next = { ...ranges() };
    if (range) next[name] = range; else delete next[name];
    pace.send(next);
  }

  const parts = Object.fromEntries(NAMES.map(name => {
    const cell = node("div");
    charts.append(cell);
    const drawn = chart(cell, { height: 138, title: GREEK[name], label: `histogram of ${name}`, left: 34, bottom: 20 });
    const inputs = ["least", "greatest"].map(side => node("input", { type: "number", step: "any", ariaLabel: `${side} ${name}`, placeholder: side }));
    const clear = node("button", { textContent: "×", title: `take the range of ${GREEK[name]} away`, onclick: () => brush(name, null) });
    const typed = () => {
      const [low, high] = inputs.map(input => input.valueAsNumber), edges = model.get("figures").parameters[name].edges;
      if (Number.isNaN(low) && Number.isNaN(high)) brush(name, null);
      else brush(name, [Number.isNaN(low) ? edges[0] : low, Number.isNaN(high) ? edges.at(-1) : high]);
    };
    inputs.forEach(input => input.addEventListener("change", typed));
    cell.append(node("div", { className: "limits" }, inputs[0], "–", inputs[1], clear));
    drawn.onRange(range => brush(name, range && range.map(value => Number(value.toPrecision(6)))));
    return [name, { drawn, inputs, clear }];
  }));

  function drawOne(name, figures) {
    const { drawn, inputs, clear } = parts[name], found = figures.parameters[name], range = ranges()[name];
    const marks = [{ kind: "bars", edges: found.edges, counts: found.every, colour: "grey", faint: true }];
    const from = found.every.map(() => 0);
    found.counts.forEach((counts, i) => {
      marks.push({ kind: "bars", edges: found.edges, counts, from: [...from], colour: COLOURS[i % COLOURS.length] });
      counts.forEach((count, j) => { from[j] += count; });
    });
    const top = Math.max(1, ...found.every, ...from), fitted = figures.fit;
    if (fitted && fitted.deviation[name] > 1e-5 * fitted.median[name]) {
      const middle = fitted.median[name], spread = fitted.deviation[name], step = found.edges[1] - found.edges[0];
      const x = Array.from({ length: 121 }, (_, i) => middle + (i - 60) / 15 * spread);
      marks.push({ kind: "line", x, y: x.map(value => fitted.n_typical * step / spread / Math.sqrt(2 * Math.PI) * Math.exp(-(((value - middle) / spread) ** 2) / 2)), colour: "orange" });
    }
    drawn.draw({ x: [found.edges[0], found.edges.at(-1)], y: [0, 1.06 * top], label: found.unit, marks });
    drawn.setRange(range ?? null);
    drawn.onPoint(value => {
      const bin = found.edges.findIndex(edge => edge > value) - 1;
      return bin >= 0 ? `${found.edges[bin].toFixed(2)} ${found.unit}: ${from[bin]}` : "";
    });
    inputs.forEach((input, i) => { if (document.activeElement !== input) input.value = range ? range[i] : ""; input.disabled = model.get("disabled"); });
    clear.disabled = model.get("disabled") || !range;
  }

  function table(head, lines) {
    const made = node("table", { className: "figures" });
    made.append(node("tr", {}, ...head.map(text => node("th", { textContent: text }))));
    for (const line of lines) made.append(node("tr", {}, ...line.map(cell => (cell instanceof Node ? node("td", {}, cell) : node("td", { textContent: cell })))));
    return made;
  }

  function draw() {
    const figures = model.get("figures");
    if (!figures.parameters) return;
    for (const name of NAMES) drawOne(name, figures);
    const used = figures.groups.map((name, i) => [name, COLOURS[i % COLOURS.length], NAMES.some(p => figures.parameters[p].counts[i].some(Boolean))]);
    legend.replaceChildren(...used.filter(([, , some]) => some).map(([name, colour]) => node("span", { className: `key ${colour}`, textContent: name })), node("span", { className: "key orange", textContent: "fit of the selected" }));
    const n = model.get("n_crystals"), selected = model.get("n_selected"), why = model.get("selection").why;
    said.replaceChildren(node("span", {}, node("b", { textContent: selected.toLocaleString("en") }), `of ${n.toLocaleString("en")} crystals${why ? `: ${why}` : ""}`));
    const found = figures.fit;
    fit.replaceChildren(...(found ? [
      node("h4", { textContent: `Fit of ${found.n_typical.toLocaleString("en")} typical of ${found.n.toLocaleString("en")} selected crystals` }),
      table(["", ...NAMES.map(name => `${GREEK[name]} / ${name.length === 1 ? "Å" : "°"}`)], [["mean", "mean"], ["median", "median"], ["σ", "deviation"]].map(([label, key]) =>
        [label, ...NAMES.map(name => found[key][name]?.toFixed(3) ?? "–")])),
    ] : [node("p", { className: "quiet", textContent: "no crystal is selected" })]));
  }

  function drawProposals() {
    const found = model.get("proposals");
    which = Math.min(which, Math.max(0, found.length - 1));
    proposals.replaceChildren(...(found.length ? [node("h4", { textContent: "Cells to choose from" }), table(["", "cell / Å, °", "lattice", "crystals", "from"], found.map((one, i) => {
      const radio = node("input", { type: "radio", name: `which-${model.model_id ?? ""}`, checked: i === which, ariaLabel: `cell ${i + 1}`, onchange: () => { which = i; } });
      return [radio, one.cell.map(value => value.toFixed(2)).join("  "), one.lattice, one.n.toLocaleString("en"), one.why];
    }))] : []));
  }

  function controls() {
    const off = model.get("disabled");
    for (const control of [all, save, path]) control.disabled = off;
    by.centring.classList.toggle("on", model.get("group_by") === "centring");
    by.cluster.classList.toggle("on", model.get("group_by") === "cluster");
    zoom.classList.toggle("on", model.get("zoomed"));
    busy.textContent = model.get("busy");
    message.textContent = model.get("message");
    propose.disabled = Boolean(model.get("busy"));
    saved.textContent = model.get("chosen").path ? `saved: ${model.get("chosen").path}` : "";
  }

  by.centring.onclick = () => model.send({ kind: "group", by: "centring" });
  by.cluster.onclick = () => model.send({ kind: "group", by: "cluster" });
  zoom.onclick = () => { model.set("zoomed", !model.get("zoomed")); model.save_changes(); };
  all.onclick = () => pace.send({});
  propose.onclick = () => model.send({ kind: "propose" });
  save.onclick = () => model.send({ kind: "save", path: path.value, which });
  model.on("change:figures", () => { pace.answered(); draw(); });
  model.on("change:n_selected change:selection change:ranges change:disabled", draw);
  model.on("change:disabled change:group_by change:zoomed change:busy change:message change:chosen", controls);
  model.on("change:proposals", drawProposals);
  draw();
  controls();
  drawProposals();
  return () => NAMES.forEach(name => parts[name].drawn.end());
}

export default { render };
