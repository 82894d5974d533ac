// Sliders for the parameters of a recipe. What there is to change, with defaults, limits and help, comes from the kernel;
// so does what became of the frame. The page keeps nothing but which sections are open.

const OPEN_AT_FIRST = ["peaks", "hits", "indexing"];
const WHOLE_RUN = { bad_pixels: "for a whole run", profiles: "for a whole run" };

const rounded = value => Number(value.toPrecision(6));

class Parameters {
  constructor(model, root) {
    this.model = model;
    this.changes = { ...model.get("changes") };
    this.rows = {};
    this.bound = [];
    this.build(root);
    const on = (event, call) => { model.on(event, call, this); this.bound.push([event, call]); };
    on("change:changes", () => { if (!this.touching) { this.changes = { ...model.get("changes") }; this.show(); } });
    on("change:outcome", () => this.showOutcome());
    on("change:applying", () => this.showApplying());
    on("change:comparison", () => this.showComparison());
    on("change:disabled", () => this.showDisabled());
    on("change:message", () => this.showOutcome());
    this.send = throttled(() => {
      model.set("changes", { ...this.changes });
      model.save_changes();
      this.touching = false;
    }, 60);
    this.show();
    this.showOutcome();
    this.showApplying();
    this.showComparison();
    this.showDisabled();
  }

  build(root) {
    this.now = element("div", { className: "now" });
    this.reason = element("div", { className: "reason" });
    this.before = element("div", { className: "before quiet" });
    this.message = element("div", { className: "message" });
    this.some = element("button", { className: "apply-some", textContent: "apply to 200 frames", title: "Spread evenly over all", onclick: () => this.apply(true) });
    this.all = element("button", { className: "apply-all", textContent: "apply to the run", onclick: () => this.apply(false) });
    this.cancel = element("button", { className: "cancel", textContent: "cancel", onclick: () => this.model.send({ kind: "cancel" }) });
    this.reset = element("button", { className: "reset", textContent: "reset all", title: "All parameters as before", onclick: () => { this.changes = {}; this.changed(); } });
    this.bar = element("progress", { max: 1 });
    this.progress = element("div", { className: "quiet progress" });
    this.compared = element("div", { className: "comparison" });
    this.search = element("input", { type: "text", className: "search", placeholder: "find a parameter", oninput: () => this.filter() });
    const sections = new Map();
    for (const control of this.model.get("controls")) {
      if (!sections.has(control.section)) {
        const title = element("summary", {}, control.section.replace("_", " ").replace(".", ": "),
          element("span", { className: "quiet", textContent: WHOLE_RUN[control.section] ?? "" }), element("span", { className: "count" }));
        sections.set(control.section, element("details", { open: OPEN_AT_FIRST.includes(control.section) }, title));
      }
      const section = sections.get(control.section);
      section.append(this.rows[control.name] = this.row(control));
    }
    // What concerns a frame by itself comes first.
    this.sections = [...sections].sort(([a], [b]) => (a in WHOLE_RUN) - (b in WHOLE_RUN)).map(([, section]) => section);
    this.root = element("div", { className: "sfxlab live-parameters" },
      element("div", { className: "outcome" }, this.now, this.reason, this.before, this.message),
      element("div", { className: "row" }, this.some, this.all, this.cancel, this.bar),
      this.progress, this.compared,
      element("div", { className: "row" }, this.search, this.reset),
      element("div", { className: "sections" }, ...this.sections));
    this.root.dataset.lmSuppressShortcuts = "true";
    this.root.onkeydown = event => event.stopPropagation();
    root.append(this.root);
  }

  row(control) {
    const row = element("div", { className: "parameter", title: control.help });
    row.dataset.name = control.name;
    row.control = control;
    const back = element("button", { className: "back", textContent: "↺", title: "As before", onclick: () => this.set(control, control.value) });
    row.append(element("label", { textContent: control.label, htmlFor: `p-${control.name}` }));
    if (control.kind === "switch") {
      row.input = element("input", { type: "checkbox", onchange: () => this.set(control, row.input.checked) });
      row.append(row.input);
    } else if (control.kind === "choice") {
      row.input = element("select", { onchange: () => this.set(control, row.input.value) },
        ...control.choices.map(choice => element("option", { value: choice, textContent: choice })));
      row.append(row.input);
    } else if (control.kind === "text") {
      row.input = element("input", { type: "text", onchange: () => this.set(control, row.input.value) });
      row.append(row.input);
    } else {
      row.slider = element("input", { type: "range", min: control.low, max: control.high, step: control.step });
      row.slider.setAttribute("aria-label", control.name);
      row.slider.oninput = () => this.set(control, rounded(Number(row.slider.value)));
      row.input = element("input", { type: "number", step: control.kind === "whole" ? 1 : "any" });
      if (control.least !== null) row.input.min = control.least;
      if (control.largest !== null) row.input.max = control.largest;
      row.input.onchange = () => { if (row.input.value !== "") this.set(control, Number(row.input.value)); };
      row.append(row.slider, row.input);
    }
    row.append(back, element("div", { className: "help quiet", textContent: control.help }));
    return row;
  }

  set(control, value) {
    if (value === control.value) delete this.changes[control.name];
    else this.changes[control.name] = value;
    this.changed();
  }

  changed() {
    this.touching = true;
    this.show();
    this.send();
  }

  show() {
    for (const row of Object.values(this.rows)) {
      const { name, value: before, kind } = row.control, value = this.changes[name] ?? before;
      row.classList.toggle("is-changed", name in this.changes);
      if (kind === "switch") { row.input.checked = value; continue; }
      row.input.value = value;
      if (!row.slider) continue;
      // Who types more than the slider reaches gets a longer slider.
      if (value > Number(row.slider.max)) row.slider.max = 2 * value;
      if (value < Number(row.slider.min)) row.slider.min = value;
      row.slider.value = value;
    }
    for (const section of this.sections) {
      const n = section.querySelectorAll(".is-changed").length;
      section.querySelector(".count").textContent = n ? `${n} changed` : "";
    }
  }

  showOutcome() {
    const outcome = this.model.get("outcome"), seconds = Object.values(outcome.seconds ?? {}).reduce((sum, s) => sum + s, 0);
    this.root.dataset.status = outcome.status ?? "";
    this.now.textContent = outcome.now ? `frame ${outcome.frame}: ${outcome.now}` : "";
    this.now.title = Object.entries(outcome.seconds ?? {}).map(([step, s]) => `${step}: ${(1000 * s).toFixed(0)} ms`).join("\n") + `\n${(1000 * seconds).toFixed(0)} ms together`;
    const [kind, ...figures] = (outcome.reason ?? "").split(":");
    this.reason.replaceChildren(...(outcome.reason ? [element("b", { textContent: `Why not indexed: ${kind}` }), figures.join(":")] : []));
    const same = outcome.before === outcome.now;
    this.before.textContent = outcome.before ? (same ? "as before" : `before: ${outcome.before}`) : "";
    this.message.textContent = this.model.get("message");
  }

  apply(some) { this.model.send({ kind: "apply", some }); }

  showApplying() {
    const { state, text, share } = this.model.get("applying"), running = state === "running";
    this.root.dataset.applying = state;
    this.some.disabled = this.all.disabled = running || this.model.get("disabled");
    this.cancel.hidden = this.bar.hidden = !running;
    this.bar.value = share;
    this.progress.textContent = text;
    this.progress.classList.toggle("message", state === "failed");
  }

  showComparison() {
    const compared = this.model.get("comparison");
    if (!compared.text) { this.compared.replaceChildren(); return; }
    const frames = (name, numbers) => numbers.length ? [element("div", { className: "row" }, `${name}:`,
      ...numbers.slice(0, 24).map(number => element("button", { className: name, textContent: number, title: "Show this frame", onclick: () => this.model.send({ kind: "show", frame: number }) })),
      numbers.length > 24 ? `and ${numbers.length - 24} more` : "")] : [];
    this.compared.replaceChildren(element("b", { textContent: compared.text }), ...frames("gained", compared.gained), ...frames("lost", compared.lost));
  }

  showDisabled() {
    const off = this.model.get("disabled");
    for (const control of this.root.querySelectorAll(".parameter input, .parameter select, .parameter button")) control.disabled = off;
    this.reset.disabled = off;
    this.showApplying();
  }

  filter() {
    const words = this.search.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const section of this.sections) {
      let some = false;
      for (const row of section.querySelectorAll(".parameter")) {
        const text = `${row.control.name} ${row.control.label} ${row.control.help}`.toLowerCase();
        row.hidden = !words.every(word => text.includes(word));
        some ||= !row.hidden;
      }
      section.hidden = !some;
      if (words.length && some) section.open = true;
    }
  }

  end() { for (const [event, call] of this.bound) this.model.off(event, call); }
}

export default {
  render({ model, el }) {
    const parameters = new Parameters(model, el);
    return () => parameters.end();
  },
};
