const CUTS = [
  ["lengths", "a, b, c within", "%", false], ["angles", "α, β, γ within", "°", false], ["correlation", "CC at least", "", true],
  ["resolution", "diffract to", "Å", false], ["b_factor", "|B| at most", "Å²", false], ["n_observations", "observations ≥", "", true],
];
const SHELLS = [
  ["cc_half", "CC1/2", [0, 1.02], 1], ["rsplit", "Rsplit / %", null, 100], ["snr", "I / σ(I)", null, 1],
  ["completeness", "completeness / %", [0, 102], 100], ["multiplicity", "multiplicity", null, 1],
];
const CRYSTALS = [["scale", "scale (log10)"], ["b_factor", "B / Å²"], ["correlation", "CC with the others"]];

function render({ model, el }) {
  const box = node("div", { className: "sfxlab board merging-board" });
  box.dataset.lmSuppressShortcuts = "true";
  box.addEventListener("keydown", event => event.stopPropagation());
  const message = node("div", { className: "message", role: "alert" }), busy = node("span", { className: "quiet busy", textContent: "merging …" });
  const totals = node("div", { className: "totals" }), sliders = node("div", { className: "cuts" }), tags = node("span", { className: "tags" });
  const only = node("input", { type: "checkbox" }), due = node("span", { className: "quiet" });
  const all = node("button", { textContent: "all crystals", title: "take all cuts away" });
  const pin = node("button", { textContent: "keep beside", title: "keep this merge to compare others with" });
  const unpin = node("button", { textContent: "only one" });
  const refit = node("button", { textContent: "fit scales again", title: "fit the scales on the crystals that pass now" });
  const finest = node("input", { type: "number", step: "0.05", min: "0", placeholder: "d min", ariaLabel: "least spacing" });
  const shells = node("input", { type: "number", step: "1", min: "1", max: "50", ariaLabel: "number of shells" });
  const charts = node("div", { className: "charts" }), table = node("details", {}, node("summary", { textContent: "Table 1" }));
  const path = node("input", { type: "text", value: "merged.mtz", ariaLabel: "file to save the merge in" });
  const save = node("button", { textContent: "save MTZ" }), saved = node("span", { className: "quiet" });
  box.append(
    node("div", { className: "row" }, all, pin, unpin, refit, due, node("label", { className: "quiet" }, "to ", finest, " Å in "), node("label", { className: "quiet" }, shells, " shells"), busy),
    message, totals, sliders, node("div", { className: "row tags" }, node("label", {}, only, " selected crystals only"), tags), charts,
    table, node("div", { className: "row" }, path, save, saved),
  );
  el.append(box);

  const pace = paced(next => { model.set("cuts", next); model.save_changes(); });
  let asked = null; // what is asked for, before the kernel has it
  const cuts = () => asked ?? model.get("cuts");
  function change(name, value) {
    const next = { ...cuts() };
    if (value === null || value === false || value?.length === 0) delete next[name]; else next[name] = value;
    asked = next;
    pace.send(next);
  }
  const setting = (name, value) => {
    const next = { ...model.get("settings") };
    if (value === null || Number.isNaN(value)) delete next[name]; else next[name] = value;
    model.set("settings", next);
    model.save_changes();
  };

  const controls = Object.fromEntries(CUTS.map(([name, label, unit, least]) => {
    const input = node("input", { type: "range", ariaLabel: label }), output = node("output");
    sliders.append(node("label", {}, label, input, output));
    input.addEventListener("input", () => {
      const value = input.valueAsNumber, off = least ? value <= Number(input.min) : value >= Number(input.max);
      change(name, off ? null : value);
      drawSliders();
    });
    return [name, { input, output, unit, least }];
  }));

  function drawSliders() {
    const limits = model.get("limits"), off = model.get("disabled");
    for (const [name, { input, output, unit, least }] of Object.entries(controls)) {
      const [low, high, step] = limits[name] ?? [0, 1, 0.1], value = cuts()[name];
      input.min = low; input.max = Math.max(high, value ?? high); input.step = step;
      if (document.activeElement !== input || asked === null) input.value = value ?? (least ? low : high);
      input.disabled = off;
      const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
      output.textContent = value === undefined ? "no limit" : `${Number(value).toFixed(decimals)} ${unit}`;
      output.classList.toggle("off", value === undefined);
    }
    only.checked = Boolean(cuts().only_selected);
    const without = cuts().without ?? [];
    const known = [...new Set([...model.get("tags"), ...without])];
    tags.replaceChildren(...(known.length ? ["leave out: "] : []), ...known.map(tag => {
      const box = node("input", { type: "checkbox", checked: without.includes(tag), disabled: off });
      box.addEventListener("change", () => change("without", box.checked ? [...without, tag] : without.filter(other => other !== tag)));
      return node("label", {}, box, ` ${tag} `);
    }));
    for (const control of [all, pin, unpin, refit, only, finest, shells, save, path]) control.disabled = off;
    unpin.hidden = !model.get("settings").beside;
    if (document.activeElement !== finest) finest.value = model.get("settings").d_min ?? "";
    if (document.activeElement !== shells) shells.value = model.get("settings").n_shells ?? 10;
  }

  const plots = Object.fromEntries([...SHELLS.map(([name, title]) => [name, title]), ["wilson", "Wilson plot: ln(⟨I⟩ / Σf²)"], ...CRYSTALS].map(([name, title]) => {
    const cell = node("div", {});
    charts.append(cell);
    return [name, chart(cell, { height: 150, title })];
  }));

  function drawShells(main, beside) {
    const sides = beside ? [main, beside] : [main];
    const x = [0, 1.03 * Math.max(...sides.flatMap(side => side.d_min.map(d => d ** -2)))];
    for (const [name, title, limits, factor] of SHELLS) {
      const of = (side, key) => side[key].map(value => known(value) ? factor * value : null);
      const marks = [];
      if (name === "cc_half") marks.push({ kind: "band", x: main.x, low: of(main, "cc_half_low"), high: of(main, "cc_half_high"), colour: "blue" });
      marks.push({ kind: "line", x: main.x, y: of(main, name), colour: "blue", name: beside ? "this" : "" }, { kind: "points", x: main.x, y: of(main, name), colour: "blue", size: 5 });
      if (beside) marks.push({ kind: "line", x: beside.x, y: of(beside, name), colour: "orange", dashed: true, name: "beside" });
      if (beside && name === "cc_half") marks.push({ kind: "line", x: main.x, y: beside.cc, colour: "grey", name: "CC of the two" });
      const top = Math.max(...sides.flatMap(side => of(side, name)).filter(known), 1e-9);
      plots[name].draw({ x, y: limits ?? [0, 1.08 * Math.min(top, name === "rsplit" ? 200 : top)], xTicks: spacings(...x), label: "d / Å", marks });
      plots[name].onPoint(place => {
        const i = main.d_min.findIndex(d => d ** -2 >= place);
        if (i < 0) return "";
        const text = side => known(of(side, name)[i]) ? of(side, name)[i].toFixed(name === "cc_half" ? 3 : 1) : "–";
        return `${main.d_max[i] > 1e3 ? "∞" : main.d_max[i].toFixed(2)}–${main.d_min[i].toFixed(2)} Å: ${text(main)}${beside ? `, beside ${text(beside)}` : ""}`;
      });
    }
    const y = sides.flatMap(side => side.wilson.y), marks = [];
    sides.forEach((side, i) => {
      const colour = i ? "orange" : "blue", b = known(side.wilson.b_factor) ? `B = ${side.wilson.b_factor.toFixed(1)} Å²` : "";
      marks.push({ kind: "points", x: side.wilson.x, y: side.wilson.y, colour, size: 5 });
      if (b) marks.push({ kind: "line", x: side.wilson.x, y: side.wilson.line, colour, dashed: Boolean(i), name: b });
    });
    plots.wilson.draw({ x, y: extent(y), xTicks: spacings(...x), label: "d / Å", marks });
  }

  function drawCrystals(crystals) {
    for (const [name] of CRYSTALS) {
      const found = crystals[name], limit = cuts()[name];
      const rules = name === "correlation" && known(limit) ? [limit] : name === "b_factor" && known(limit) ? [-limit, limit] : [];
      plots[name].draw({
        x: [found.edges[0], found.edges.at(-1)], y: [0, 1.06 * Math.max(1, ...found.every)],
        marks: [{ kind: "bars", edges: found.edges, counts: found.every, colour: "grey", faint: true }, { kind: "bars", edges: found.edges, counts: found.used, colour: "green" }, ...rules.map(x => ({ kind: "rule", x, colour: "orange" }))],
      });
    }
  }

  function drawTotals(main, beside, crystals) {
    const columns = [["crystals", side => side.crystals?.toLocaleString("en") ?? "–"], ["CC1/2", side => side.overall.cc_half?.toFixed(4)], ["CC*", side => side.overall.cc_star?.toFixed(4)], ["Rsplit", side => `${(100 * side.overall.rsplit).toFixed(1)} %`],
      ["completeness", side => `${(100 * side.overall.completeness).toFixed(1)} %`], ["multiplicity", side => side.overall.multiplicity?.toFixed(1)], ["I/σ", side => side.overall.snr?.toFixed(2)], ["reflections", side => side.overall.n_unique.toLocaleString("en")]];
    const made = node("table", { className: "figures" });
    const line = (name, side) => node("tr", {}, node("td", {}, node("span", { className: `key ${name === "beside" ? "orange dashed" : "blue"}`, textContent: name })), ...columns.map(([, text]) => node("td", { textContent: text(side) ?? "–" })), node("td", { className: "why", textContent: side.why, title: side.why }));
    made.append(node("tr", {}, node("th"), ...columns.map(([label]) => node("th", { textContent: label })), node("th", { textContent: "cuts" })), line("this", main));
    if (beside) made.append(line("beside", beside));
    totals.replaceChildren(made);
    const rejected = crystals.chosen - crystals.used;
    due.textContent = `${crystals.chosen.toLocaleString("en")} of ${crystals.given.toLocaleString("en")} crystals pass${rejected ? `, ${rejected} of them rejected` : ""}; scales are off by ${(100 * (model.get("figures").drift ?? 0)).toFixed(1)} %${beside ? `; CC of the two ${beside.cc_overall?.toFixed(4)}` : ""}`;
    due.classList.toggle("due", model.get("figures").refit_due);
  }

  function draw() {
    const { main, beside, crystals } = model.get("figures");
    if (!main) return;
    drawShells(main, beside);
    drawCrystals(crystals);
    drawTotals(main, beside, crystals);
  }

  function drawTable() {
    table.querySelector("table")?.remove();
    const lines = model.get("table_one");
    if (!lines.length) { if (table.open) model.send({ kind: "table" }); return; }
    const made = node("table", { className: "figures" }, node("tr", {}, node("th"), node("th", { textContent: "overall" }), node("th", { textContent: "outer shell" })));
    made.append(...lines.map(line => node("tr", {}, ...line.map(text => node("td", { textContent: text })))));
    table.append(made);
  }

  all.onclick = () => { asked = {}; pace.send({}); };
  pin.onclick = () => setting("beside", { ...model.get("cuts") });
  unpin.onclick = () => setting("beside", null);
  refit.onclick = () => setting("scaled_on", { ...model.get("cuts") });
  only.addEventListener("change", () => change("only_selected", only.checked));
  finest.addEventListener("change", () => setting("d_min", finest.value === "" ? null : finest.valueAsNumber));
  shells.addEventListener("change", () => setting("n_shells", shells.valueAsNumber));
  table.addEventListener("toggle", () => { if (table.open) drawTable(); });
  save.onclick = () => model.send({ kind: "save", path: path.value });
  const told = () => { message.textContent = model.get("message"); saved.textContent = model.get("saved") ? `saved: ${model.get("saved")}` : ""; busy.classList.toggle("on", model.get("busy")); };
  model.on("change:figures", draw);
  model.on("change:busy", () => { told(); if (!model.get("busy")) { asked = null; pace.answered(); } });
  model.on("change:cuts change:settings change:limits change:tags change:disabled", () => { drawSliders(); draw(); });
  model.on("change:message change:saved", told);
  model.on("change:table_one", drawTable);
  drawSliders();
  draw();
  told();
  return () => Object.values(plots).forEach(plot => plot.end());
}

export default { render };
