// The frame viewer in the browser: it holds the pixels that are seen, paints them with colours, contrast and gamma by
// itself, and draws marks over them. What to see is asked for by messages; the view itself is small synchronised traits.

const HELP = [
  ["→ ←", "next, previous frame"], ["H, Shift+H", "next, previous hit"], ["U, Shift+U", "next, previous hit without a lattice"],
  ["Space", "play, stop"], ["T", "tag"], ["F", "flag, or take the flag away"], ["+ −", "zoom in, out"],
  ["0, 1", "whole picture, a screen pixel for each pixel"], ["Shift+arrows", "move the picture"], ["A", "automatic contrast"],
  ["C", "next colour map"], ["P, L, R, N, M, B", "peaks, predictions, rings, panel names, bad pixels, beam"],
  ["W, E, O", "follow the next person, look with everybody, look alone"], ["S", "save a picture"], ["Esc", "close what is open"], ["?", "this help"],
];
const LAYER_KEYS = { p: "peaks", l: "predictions", r: "rings", n: "panels", m: "mask", b: "beam" };
const LAYER_WORDS = {
  peaks: "peaks", predictions: "predictions", rings: "rings", panels: "panels", mask: "bad pixels", beam: "beam",
};

class Viewer extends People {
  constructor(model, root) {
    super();
    this.model = model;
    this.client = Math.random().toString(36).slice(2);
    this.began = performance.now();
    this.request = 0;
    this.inFlight = null;          // {request, frame, kind}; one at a time, so that nothing piles up
    this.whole = this.detail = null; // layers of pixels: {frame, region, codes, scale, bitmap}
    this.scene = this.marks = this.colours = this.maps = null;
    this.direction = 1;
    this.playing = false;
    this.place = root;
    this.build(root);
    this.bound = [];
    const on = (event, call) => { model.on(event, call, this); this.bound.push([event, call]); };
    on("msg:custom", (content, buffers) => this.heard(content, buffers));
    on("change:frame", () => this.frameChanged());
    for (const name of ["centre", "zoom"]) on(`change:${name}`, () => { if (!this.drag) this.viewChanged(); });
    on("change:contrast", () => { if (!this.adjusting) { this.showContrast(); this.paint(); } });
    on("change:layers", () => { this.showLayers(); this.ask(); this.draw(); });
    on("change:tags", () => this.showTags());
    on("change:disabled", () => this.showDisabled());
    on("change:may_tag", () => this.showDisabled());
    for (const name of ["people", "following"]) on(`change:${name}`, () => this.showPeople());
    on("change:news", () => this.showNews());
    root.addEventListener("sfxlab-me", () => { this.showPeople(); this.showNews(); });
    on("change:message", () => { this.message.textContent = model.get("message"); });
    this.sendView = throttled(() => this.save({ centre: this.centre, zoom: this.zoom }), 100);
    this.sendContrast = throttled(() => { this.save({ contrast: this.contrast }); this.adjusting = false; }, 100);
    this.askPointer = throttled(() => this.pointer && model.send({ kind: "pointer", ...this.told(), ...this.pointer }), 40);
    this.resized = new ResizeObserver(() => this.resize());
    this.resized.observe(this.stage);
    this.contrast = model.get("contrast");
    this.centre = model.get("centre");
    this.zoom = model.get("zoom");
    this.showContrast();
    this.showLayers();
    this.showTags();
    this.showDisabled();
    this.showPeople();
    model.send({ kind: "hello", client: this.client });
  }

  told() { return { client: this.client, request: this.request, frame: this.frame }; }
  get frame() { return this.model.get("frame"); }
  get layers() { return this.model.get("layers"); }

  save(values) {
    if (this.isRefused()) return;
    for (const [name, value] of Object.entries(values)) this.model.set(name, value);
    this.model.save_changes();
  }

  isRefused() {
    const off = this.model.get("disabled");
    if (off) this.message.textContent = "Your role here is to look: an analyst or a lead moves what everybody sees. Press O to look on your own.";
    return off;
  }

  // --- what is on the page ---

  build(root) {
    const button = (name, text, title, call) =>
      this[name] = element("button", { textContent: text, title, onclick: call, className: name });
    this.number = element("input", { type: "number", min: 0, className: "number", title: "Number of the frame" });
    this.number.onchange = () => this.go(Number(this.number.value));
    this.of = element("span", { className: "quiet" });
    this.facts = element("span", { className: "quiet facts" });
    this.speed = element("select", { title: "Frames per second", className: "speed" },
      ...[1, 2, 5, 10].map(n => element("option", { value: n, textContent: `${n}/s`, selected: n === 5 })));
    this.tagList = element("span", { className: "tags" });
    this.tagInput = element("input", { type: "text", placeholder: "tag, Enter", className: "tag-input", hidden: true });
    this.tagInput.onkeydown = event => {
      if (event.key === "Enter" && this.tagInput.value.trim()) this.setTag(this.tagInput.value.trim(), true);
      if (event.key === "Enter" || event.key === "Escape") { this.tagInput.hidden = true; this.tagInput.value = ""; this.root.focus(); }
      event.stopPropagation();
    };
    const top = element("div", { className: "row" },
      button("previous", "◀", "Previous frame (←)", () => this.go(this.frame - 1)),
      this.number, this.of,
      button("next", "▶", "Next frame (→)", () => this.go(this.frame + 1)),
      button("next-hit", "next hit", "Next hit (H)", () => this.find("hit", 1)),
      button("next-unindexed", "next unindexed", "Next hit without a lattice (U)", () => this.find("unindexed", 1)),
      button("play", "play", "Show one frame after the other (Space)", () => this.togglePlay()), this.speed,
      this.tagList, this.tagInput,
      button("add-tag", "tag", "Tag this frame (T)", () => this.openTag()),
      button("flag", "flag", "Flag this frame (F)", () => this.toggleFlag()),
      element("span", { className: "space" }),
      button("save-picture", "save…", "Save a picture for a paper (S)", () => this.openSave()),
      button("help", "?", "Keys (?)", () => this.toggle(this.helpPanel)));
    this.canvas = element("canvas", { className: "pixels" });
    this.overlay = element("canvas", { className: "overlay" });
    this.under = element("div", { className: "under" });
    this.helpPanel = element("div", { className: "panel help-panel", hidden: true },
      element("table", {}, ...HELP.map(([key, words]) => element("tr", {}, element("th", { textContent: key }), element("td", { textContent: words })))));
    this.savePanel = this.buildSave();
    this.stage = element("div", { className: "stage" }, this.canvas, this.overlay, this.under, this.helpPanel, this.savePanel);
    this.stage.style.height = `${this.model.get("height")}px`;
    this.sentence = element("div", { className: "sentence" });
    this.message = element("div", { className: "message" });
    this.root = element("div", { className: "sfxlab frame-viewer", tabIndex: 0 }, top, this.buildPeople(), this.stage, this.sentence, this.message, this.buildContrast());
    this.root.dataset.lmSuppressShortcuts = "true";
    this.root.onkeydown = event => this.key(event);
    this.stage.onpointerdown = event => this.pointerDown(event);
    this.stage.onpointermove = event => this.pointerMove(event);
    this.stage.onpointerup = this.stage.onpointercancel = () => this.pointerUp();
    this.stage.onpointerleave = () => { this.pointer = null; this.under.textContent = ""; };
    // Clicks go to the stage, which has captured the pointer.
    this.stage.ondblclick = event => { if (!event.target.closest(".panel")) this.zoomBy(2, ...this.inStage(event)); };
    this.stage.addEventListener("wheel", event => this.wheel(event), { passive: false });
    root.append(this.root);
  }

  buildContrast() {
    this.map = element("select", { className: "map", title: "Colours (C)", onchange: () => this.setContrast({ map: this.map.value }) });
    this.strip = element("canvas", { className: "strip", title: "Values in the picture; drag the ends of the contrast" });
    this.strip.onpointerdown = event => this.stripDown(event);
    this.strip.onpointermove = event => this.stripMove(event);
    this.strip.onpointerup = () => { this.handle = null; };
    const number = (name, title) => {
      this[name] = element("input", { type: "number", step: "any", className: name, title });
      this[name].onchange = () => this.setContrast({ [name]: this[name].value === "" ? null : Number(this[name].value) });
      return this[name];
    };
    this.gamma = element("input", { type: "range", min: 0.2, max: 3, step: 0.05, className: "gamma", title: "Gamma" });
    this.gamma.oninput = () => this.setContrast({ gamma: Number(this.gamma.value) });
    this.auto = element("button", { textContent: "auto", className: "auto", title: "Automatic contrast for each frame (A)", onclick: () => this.setContrast({ low: null, high: null, gamma: 1 }) });
    this.boxes = {};
    const layers = Object.entries(LAYER_WORDS).map(([name, words]) => {
      this.boxes[name] = element("input", { type: "checkbox", className: `layer-${name}`, onchange: () => this.setLayer(name, this.boxes[name].checked) });
      return element("label", {}, this.boxes[name], words);
    });
    this.fit = element("button", { textContent: "fit", className: "fit", title: "Whole picture (0)", onclick: () => this.setView([], 0) });
    this.oneToOne = element("button", { textContent: "1:1", className: "one-to-one", title: "A screen pixel for each pixel (1)", onclick: () => this.setView(this.centreNow(), 1) });
    return element("div", { className: "row below" }, this.map, number("low", "Value of the first colour, ADU"), this.strip,
      number("high", "Value of the last colour, ADU"), element("label", { className: "quiet" }, "γ ", this.gamma), this.auto, this.fit, this.oneToOne,
      element("span", { className: "space" }), ...layers, this.facts);
  }

  buildSave() {
    const choice = (name, words, checked) => {
      const box = element("input", { type: "checkbox", checked, className: `save-${name}` });
      this.saveBoxes[name] = box;
      return element("label", {}, box, words);
    };
    this.saveBoxes = {};
    this.saveScale = element("select", { className: "save-scale" }, ...[[1, "full resolution"], [2, "twice"], [0.5, "half"]]
      .map(([value, words]) => element("option", { value, textContent: words })));
    const panel = element("div", { className: "panel save-panel", hidden: true },
      element("b", { textContent: "Save a picture" }),
      choice("rings", "resolution rings", true), choice("peaks", "peaks", true), choice("predictions", "predictions", false),
      choice("scale_bar", "scale bar", true), choice("legend", "legend", true), choice("view", "only what is seen now", false),
      element("label", {}, "size ", this.saveScale),
      element("div", { className: "row" },
        element("button", { textContent: "save PNG", className: "save-now", onclick: () => this.savePicture() }),
        element("button", { textContent: "cancel", onclick: () => this.closePanels() })));
    panel.onpointerdown = event => event.stopPropagation();
    return panel;
  }

  showDisabled() {
    const off = this.model.get("disabled"), tags = !this.model.get("may_tag");
    for (const control of this.root.querySelectorAll(".row button, .row input, .row select"))
      if (!control.closest(".save-panel") && !["save-picture", "help"].includes(control.className)) control.disabled = off;
    for (const control of [this.flag, this["add-tag"], ...this.tagList.children]) control.disabled = tags;
    this.root.classList.toggle("looking-only", off);
  }

  showLayers() { for (const [name, box] of Object.entries(this.boxes)) box.checked = Boolean(this.layers[name]); }

  showTags() {
    const tags = this.model.get("tags");
    this.tagList.replaceChildren(...tags.map(tag => element("button", {
      className: "tag", textContent: `${tag} ×`, title: "Take this tag away", onclick: () => this.setTag(tag, false),
      disabled: !this.model.get("may_tag"),
    })));
    this.flag.classList.toggle("on", tags.includes(this.flagTag));
  }

  toggle(panel) {
    const open = panel.hidden;
    this.closePanels();
    panel.hidden = !open;
  }

  closePanels() { this.helpPanel.hidden = this.savePanel.hidden = true; this.root.focus({ preventScroll: true }); }

  // --- which frame ---

  go(number) {
    const last = this.model.get("n_frames") - 1;
    if (!Number.isFinite(number)) return;
    number = Math.max(0, Math.min(last, Math.round(number)));
    if (number === this.frame) { this.number.value = number; return; }
    this.save({ frame: number });
  }

  find(wanted, step) {
    if (this.isRefused()) return;
    this.sentence.textContent = wanted === "hit" ? "looking for a hit…" : "looking for a hit without a lattice…";
    this.model.send({ kind: "find", ...this.told(), wanted, step });
  }

  frameChanged() {
    const before = (this.detail ?? this.whole)?.frame ?? this.frame;
    this.direction = this.frame < before ? -1 : 1;
    this.message.textContent = this.model.get("message");
    this.showNumber();
    this.ask();
  }

  showNumber() {
    this.number.value = this.frame;
    this.number.max = this.model.get("n_frames") - 1;
    this.of.textContent = `of 0 to ${this.model.get("n_frames") - 1}`;
  }

  togglePlay() {
    this.playing = !this.playing && this.frame < this.model.get("n_frames") - 1;
    this.play.textContent = this.playing ? "stop" : "play";
    this.play.classList.toggle("on", this.playing);
    if (this.playing) this.step();
  }

  step() {
    if (!this.playing) return;
    if (this.frame >= this.model.get("n_frames") - 1) { this.togglePlay(); return; }
    this.stepped = performance.now();
    this.go(this.frame + 1);
  }

  setTag(tag, on) { if (this.model.get("may_tag")) this.model.send({ kind: "tag", ...this.told(), tag, on }); }
  toggleFlag() { this.setTag(this.flagTag, !this.model.get("tags").includes(this.flagTag)); }
  openTag() { this.tagInput.hidden = false; this.tagInput.focus(); }

  // --- asking for pixels ---

  wanted() {
    // What the stage shows, in screen pixels, cut to the picture; null for the whole picture.
    if (!this.scene || !(this.zoom > 0)) return null;
    const dpr = window.devicePixelRatio || 1, step = 1 / (this.zoomNow() * dpr);
    let [x0, y0] = this.toPicture(0, 0), [x1, y1] = this.toPicture(this.across, this.down);
    x0 = Math.max(0, x0); y0 = Math.max(0, y0);
    x1 = Math.min(this.scene.columns, x1); y1 = Math.min(this.scene.rows, y1);
    if (x1 <= x0 || y1 <= y0) return null;
    return { x: x0, y: y0, step, columns: Math.max(1, Math.round((x1 - x0) / step)), rows: Math.max(1, Math.round((y1 - y0) / step)) };
  }

  ask() {
    if (!this.across) return;
    const region = this.wanted(), mask = Boolean(this.layers.mask), frame = this.frame;
    const dpr = window.devicePixelRatio || 1, size = [this.across * dpr, this.down * dpr];
    const key = JSON.stringify([frame, region, size, mask]);
    if (this.inFlight) { this.askAgain = true; return; }
    if (key === this.shown) {
      // At rest, pixels of the whole picture are kept for moving about.
      if (region && (this.whole?.frame !== frame || this.whole?.mask !== mask)) this.send("whole", null, [size[0] / 2, size[1] / 2], mask, "");
      return;
    }
    this.send(region ? "detail" : "whole", region, size, mask, key);
  }

  send(kind, region, size, mask, key) {
    const frame = this.frame;
    this.request += 1;
    const marks = key !== "" && this.marked !== frame;
    this.root.dataset.requests = this.request;
    this.inFlight = { request: this.request, kind, frame, key, mask };
    this.model.send({
      kind: "picture", client: this.client, request: this.request, frame, region, size, bits: this.model.get("bits"),
      show_bad: mask, marks, direction: this.direction,
    });
    if (marks) this.marked = frame;
  }

  heard(content, buffers) {
    if (content.client !== null && content.client !== this.client) return;
    if (content.kind === "hello") this.greeted(content, buffers);
    else if (content.kind === "picture") this.pictureCame(content, buffers);
    else if (content.kind === "marks") this.marksCame(content, buffers);
    else if (content.kind === "pointer") { if (this.pointer && content.frame === this.frame) this.under.textContent = content.text; }
    else if (content.kind === "saved") this.savedCame(content, buffers);
    else if (content.kind === "note") this.sentence.textContent = content.text;
    else if (content.kind === "failed") this.failed(content);
  }

  greeted(content, buffers) {
    const bytes = new Uint8Array(buffers[0].buffer, buffers[0].byteOffset, buffers[0].byteLength);
    this.maps = Object.fromEntries(content.maps.map((name, i) => [name, bytes.slice(768 * i, 768 * (i + 1))]));
    this.colours = content.colours;
    this.flagTag = content.flag;
    this.map.replaceChildren(...content.maps.map(name => element("option", { value: name, textContent: name })));
    this.showNumber();
    this.showContrast();
    this.showTags();
    this.ask();
  }

  failed(content) {
    if (content.frame !== this.frame && content.frame !== undefined) return;
    this.message.textContent = content.text;
    if (this.inFlight?.request === content.request) {
      this.inFlight = null;
      this.whole = this.detail = this.marks = null;
      this.marked = undefined;
      this.sentence.textContent = "";
      this.draw();
      this.painted(content.frame);
    }
  }

  pictureCame(content, buffers) {
    const sent = this.inFlight;
    if (!sent || content.request !== sent.request) return;
    this.inFlight = null;
    if (content.frame === this.frame) {
      const Codes = content.scale.bits === 8 ? Uint8Array : Uint16Array;
      const { buffer, byteOffset, byteLength } = buffers[0];
      const codes = new Codes(buffer.slice(byteOffset, byteOffset + byteLength));
      const values = new Float32Array(buffers[1].buffer.slice(buffers[1].byteOffset, buffers[1].byteOffset + buffers[1].byteLength));
      const layer = { frame: content.frame, region: content.region, codes, scale: content.scale, mask: sent.mask, values };
      this.scene = content.scene;
      this.automatic = content.contrast;
      if (sent.kind === "whole" && sent.key) this.detail = null;
      if (sent.kind === "detail" && this.whole?.frame !== content.frame) this.whole = null;
      if (this.marks?.frame !== content.frame) this.marks = null;
      this[sent.kind === "whole" ? "whole" : "detail"] = layer;
      if (sent.key) this.shown = sent.key;
      this.facts.textContent = content.facts;
      this.message.textContent = this.model.get("message");
      if (!this.marks) this.sentence.textContent = "…";
      this.paintLayer(layer);
      this.showContrast();
      this.draw();
      if (sent.key) this.painted(content.frame);
    }
    if (this.askAgain || content.frame !== this.frame) { this.askAgain = false; this.ask(); }
    else if (sent.key && !this.playing) setTimeout(() => this.ask(), 50);
  }

  painted(frame) {
    requestAnimationFrame(() => setTimeout(() => {
      if (this.began) performance.measure("sfxlab-first-picture", { start: this.began });
      this.began = null;
      this.root.dataset.frame = frame;
      this.root.dispatchEvent(new CustomEvent("sfxlab-painted", { bubbles: true, detail: { frame, request: this.request } }));
      if (this.playing) setTimeout(() => this.step(), Math.max(0, 1000 / Number(this.speed.value) - (performance.now() - this.stepped)));
    }));
  }

  marksCame(content, buffers) {
    if (content.frame !== this.frame) return;
    const floats = view => new Float32Array(view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength));
    const [peaks, owners, ...predictions] = buffers;
    this.marks = {
      frame: content.frame, peaks: floats(peaks), predictions: predictions.map(floats),
      owners: new Int8Array(owners.buffer.slice(owners.byteOffset, owners.byteOffset + owners.byteLength)),
    };
    this.root.dataset.marks = content.frame;
    this.root.dataset.status = content.status ?? "";
    this.sentence.replaceChildren(content.sentence, ...content.cells.map((cell, i) =>
      element("span", { className: "cell", textContent: `● ${cell}`, style: `color: ${css(this.colours.lattices[i % this.colours.lattices.length])}` })));
    this.draw();
    this.root.dispatchEvent(new CustomEvent("sfxlab-marks", { bubbles: true, detail: { frame: content.frame } }));
  }

  // --- a picture for a paper ---

  openSave() {
    this.saveBoxes.view.disabled = !(this.zoom > 0);
    this.toggle(this.savePanel);
  }

  savePicture() {
    const on = name => this.saveBoxes[name].checked, region = on("view") && this.wanted();
    const choices = {
      layers: { ...this.layers, rings: on("rings"), peaks: on("peaks"), predictions: on("predictions") },
      scale_bar: on("scale_bar"), legend: on("legend"), scale: Number(this.saveScale.value),
    };
    if (region) choices.region = [region.x, region.y, region.x + region.columns * region.step, region.y + region.rows * region.step];
    this.sentence.textContent = "the picture is being drawn…";
    this.model.send({ kind: "save", ...this.told(), choices });
    this.closePanels();
  }

  savedCame(content, buffers) {
    const link = element("a", { href: URL.createObjectURL(new Blob([buffers[0]], { type: "image/png" })), download: content.name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    this.sentence.textContent = `saved as ${content.name}`;
  }

  // --- keys ---

  key(event) {
    if (event.target.matches("input:not([type=checkbox]):not([type=range]), select")) { event.stopPropagation(); return; }
    const again = event.shiftKey ? -1 : 1, key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const pan = { ArrowRight: [0.2, 0], ArrowLeft: [-0.2, 0], ArrowUp: [0, -0.2], ArrowDown: [0, 0.2] }[key];
    const range = event.target.matches("input[type=range]");
    if (pan && range) { event.stopPropagation(); return; }
    if (key === " " && event.target.matches("button, input[type=checkbox]")) { event.stopPropagation(); return; }
    if (pan && event.shiftKey) this.panBy(...pan);
    else if (key === "ArrowRight") this.go(this.frame + 1);
    else if (key === "ArrowLeft") this.go(this.frame - 1);
    else if (key === "h") this.find("hit", again);
    else if (key === "u") this.find("unindexed", again);
    else if (key === " ") this.togglePlay();
    else if (key === "t") this.openTag();
    else if (key === "f") this.toggleFlag();
    else if (key === "+" || key === "=") this.zoomBy(1.5);
    else if (key === "-") this.zoomBy(1 / 1.5);
    else if (key === "0") this.setView([], 0);
    else if (key === "1") this.setView(this.centreNow(), 1);
    else if (key === "a") this.setContrast({ low: null, high: null, gamma: 1 });
    else if (key === "c") this.nextMap();
    else if (key === "s") this.openSave();
    else if (key === "w") this.followNext();
    else if (key === "e") this.lookWith("");
    else if (key === "o") this.lookWith(null);
    else if (key === "?") this.toggle(this.helpPanel);
    else if (key === "Escape") this.closePanels();
    else if (LAYER_KEYS[key]) this.setLayer(LAYER_KEYS[key], !this.layers[LAYER_KEYS[key]]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  nextMap() {
    const names = Object.keys(this.maps ?? {});
    this.setContrast({ map: names[(names.indexOf(this.contrast.map) + 1) % names.length] });
  }

  end() {
    this.playing = false;
    this.resized.disconnect();
    for (const [event, call] of this.bound) this.model.off(event, call);
  }
}

export default {
  render({ model, el }) {
    const viewer = new Viewer(model, el);
    return () => viewer.end();
  },
};
