// Pixels and the marks on them: which part of the picture is where on the stage, and how it is painted.

const NO_PANEL = 0, MASKED = 1, FIRST = 2;
const ZOOM_MOST = 96, NUMBERS_FROM = 26, MARK_LEAST = 6;

class Painting {
  // --- which part ---

  get across() { return this.stage.clientWidth; }
  get down() { return this.stage.clientHeight; }
  zoomNow() {
    if (this.zoom > 0) return this.zoom;
    return this.scene ? Math.min(this.across / this.scene.columns, this.down / this.scene.rows) : 1;
  }
  centreNow() {
    if (this.zoom > 0 && this.centre.length === 2) return this.centre;
    return this.scene ? [this.scene.columns / 2, this.scene.rows / 2] : [0, 0];
  }
  toScreen(x, y) {
    const [cx, cy] = this.centreNow(), zoom = this.zoomNow();
    return [(x - cx) * zoom + this.across / 2, (y - cy) * zoom + this.down / 2];
  }
  toPicture(x, y) {
    const [cx, cy] = this.centreNow(), zoom = this.zoomNow();
    return [(x - this.across / 2) / zoom + cx, (y - this.down / 2) / zoom + cy];
  }

  setView(centre, zoom) {
    if (this.isRefused()) return;
    this.centre = centre;
    this.zoom = zoom;
    this.sendView();
    this.draw();
    this.ask();
  }

  viewChanged() {
    this.centre = this.model.get("centre");
    this.zoom = this.model.get("zoom");
    this.draw();
    this.ask();
  }

  zoomBy(factor, x = this.across / 2, y = this.down / 2) {
    if (!this.scene) return;
    const fit = Math.min(this.across / this.scene.columns, this.down / this.scene.rows);
    const [px, py] = this.toPicture(x, y), zoom = Math.min(ZOOM_MOST, this.zoomNow() * factor);
    if (zoom <= fit * 1.01) { this.setView([], 0); return; }
    this.setView([px - (x - this.across / 2) / zoom, py - (y - this.down / 2) / zoom], zoom);
  }

  panBy(dx, dy) {
    const [cx, cy] = this.centreNow(), zoom = this.zoomNow();
    this.setView([cx + dx * this.across / zoom, cy + dy * this.down / zoom], zoom);
  }

  inStage(event) {
    const box = this.stage.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  wheel(event) {
    // The page scrolls over a viewer that nobody works with.
    if (!this.root.contains(document.activeElement) && !event.ctrlKey) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...this.inStage(event));
  }

  pointerDown(event) {
    if (event.target !== this.overlay) return;
    this.root.focus({ preventScroll: true });
    this.stage.setPointerCapture(event.pointerId);
    this.drag = { from: this.inStage(event), centre: this.centreNow(), zoom: this.zoomNow(), moved: false };
  }

  pointerMove(event) {
    const [x, y] = this.inStage(event);
    if (this.drag) {
      const { from, centre, zoom } = this.drag;
      if (!this.drag.moved && Math.hypot(x - from[0], y - from[1]) < 3) return;
      this.drag.moved = true;
      this.setView([centre[0] - (x - from[0]) / zoom, centre[1] - (y - from[1]) / zoom], zoom);
    } else {
      const [px, py] = this.toPicture(x, y);
      this.pointer = { x: px, y: py };
      this.askPointer();
    }
  }

  pointerUp() { this.drag = null; }

  resize() {
    if (!this.across) return;
    const dpr = window.devicePixelRatio || 1;
    for (const canvas of [this.canvas, this.overlay]) {
      canvas.width = Math.max(1, Math.round(this.across * dpr));
      canvas.height = Math.max(1, Math.round(this.down * dpr));
    }
    this.strip.width = this.strip.clientWidth * dpr;
    this.strip.height = this.strip.clientHeight * dpr;
    this.draw();
    this.ask();
  }

  // --- painting ---

  limits() { return [this.contrast.low ?? this.automatic?.[0] ?? 0, this.contrast.high ?? this.automatic?.[1] ?? 1]; }

  colourTable(scale) {
    // The colour of each code, as the canvas wants it: alpha, blue, green, red.
    const [low, high] = this.limits(), gamma = this.contrast.gamma || 1;
    const map = this.maps[this.contrast.map] ?? Object.values(this.maps)[0];
    const table = new Uint32Array(2 ** scale.bits);
    for (let code = FIRST; code < table.length; code++) {
      const value = scale.centre + scale.width * Math.sinh(scale.low + (code - FIRST) * scale.step);
      const share = Math.min(1, Math.max(0, (value - low) / Math.max(high - low, 1e-9)));
      const i = 3 * Math.round(255 * share ** gamma);
      table[code] = 0xff000000 | map[i + 2] << 16 | map[i + 1] << 8 | map[i];
    }
    const [r, g, b] = this.colours.bad;
    table[NO_PANEL] = 0;
    table[MASKED] = this.layers.mask ? 0xff000000 | b << 16 | g << 8 | r : 0x60808080;
    return table;
  }

  paintLayer(layer) {
    const { columns, rows } = layer.region;
    layer.bitmap ??= new OffscreenCanvas(columns, rows);
    const context = layer.bitmap.getContext("2d"), image = context.createImageData(columns, rows);
    const pixels = new Uint32Array(image.data.buffer), table = this.colourTable(layer.scale), codes = layer.codes;
    for (let i = 0; i < codes.length; i++) pixels[i] = table[codes[i]];
    context.putImageData(image, 0, 0);
  }

  paint() {
    if (!this.maps) return;
    for (const layer of [this.whole, this.detail]) if (layer) this.paintLayer(layer);
    this.draw();
  }

  draw() {
    if (this.drawing) return;
    this.drawing = requestAnimationFrame(() => { this.drawing = null; this.drawNow(); });
  }

  drawNow() {
    if (!this.across) return; // the page hides the viewer
    const dpr = window.devicePixelRatio || 1;
    const [context, pen] = [this.canvas, this.overlay].map(canvas => {
      const cleared = canvas.getContext("2d");
      cleared.setTransform(1, 0, 0, 1, 0, 0);
      cleared.clearRect(0, 0, canvas.width, canvas.height);
      cleared.setTransform(dpr, 0, 0, dpr, 0, 0);
      return cleared;
    });
    for (const layer of [this.whole, this.detail]) {
      if (!layer?.bitmap) continue;
      const { x, y, step, columns, rows } = layer.region, zoom = this.zoomNow(), [left, top] = this.toScreen(x, y);
      context.imageSmoothingEnabled = zoom * step < 0.7;
      if (layer === this.detail) context.clearRect(left, top, columns * step * zoom, rows * step * zoom);
      context.drawImage(layer.bitmap, left, top, columns * step * zoom, rows * step * zoom);
    }
    if (!this.scene || !this.colours) return;
    // Lines stand out from pixels of their own brightness.
    this.isLight = this.contrast.map === "inverted grey";
    this.halo = this.isLight ? "rgba(255,255,255,0.6)" : "rgba(0,0,0,0.6)";
    this.line = this.isLight ? css(this.colours.ring) : "rgb(215,222,230)";
    pen.font = "12px system-ui, sans-serif";
    if (this.layers.panels) this.drawPanels(pen);
    if (this.layers.rings) this.drawRings(pen);
    if (this.layers.beam) this.drawBeam(pen);
    if (this.zoomNow() >= NUMBERS_FROM && this.detail?.values.length) this.drawNumbers(pen);
    if (this.marks?.frame === this.frame) this.drawMarks(pen);
  }

  stroke(pen, colour, width = 1.5) {
    pen.strokeStyle = this.halo;
    pen.lineWidth = width + 2;
    pen.stroke();
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.stroke();
  }

  label(pen, text, x, y) {
    pen.strokeStyle = this.halo;
    pen.lineWidth = 3;
    pen.strokeText(text, x, y);
    pen.fillStyle = this.line;
    pen.fillText(text, x, y);
  }

  drawRings(pen) {
    const [x, y] = this.toScreen(...this.scene.beam), zoom = this.zoomNow();
    const corners = [[0, 0], [this.scene.columns, 0], [0, this.scene.rows], [this.scene.columns, this.scene.rows]];
    const farthest = Math.max(...corners.map(corner => this.toScreen(...corner)).map(([a, b]) => Math.hypot(a - x, b - y)));
    let drawn = 0;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const [d, pixels] of this.scene.rings) {
      const r = pixels * zoom;
      if (r > farthest) break;
      if (r - drawn < 70) continue;
      drawn = r;
      pen.beginPath();
      pen.arc(x, y, r, 0, 2 * Math.PI);
      this.stroke(pen, this.line, 1);
      // Where the ring is on the stage, the lower right first.
      for (const angle of [0.25, 0.75, 1.25, 1.75, 0.5, 1, 1.5, 0].map(share => share * Math.PI)) {
        const [lx, ly] = [x + r * Math.cos(angle), y + r * Math.sin(angle)];
        if (lx > 20 && ly > 10 && lx < this.across - 20 && ly < this.down - 10) { this.label(pen, `${d} Å`, lx, ly); break; }
      }
    }
  }

  drawBeam(pen) {
    const [x, y] = this.toScreen(...this.scene.beam);
    pen.beginPath();
    pen.moveTo(x - 10, y); pen.lineTo(x + 10, y); pen.moveTo(x, y - 10); pen.lineTo(x, y + 10);
    this.stroke(pen, this.line);
  }

  drawPanels(pen) {
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    for (const { name, corners } of this.scene.panels) {
      const at = corners.map(([x, y]) => this.toScreen(x, y));
      pen.beginPath();
      at.forEach(([x, y], i) => i ? pen.lineTo(x, y) : pen.moveTo(x, y));
      pen.closePath();
      this.stroke(pen, this.line, 1);
      const width = Math.max(...at.map(p => p[0])) - Math.min(...at.map(p => p[0]));
      if (width > pen.measureText(name).width)
        this.label(pen, name, at.reduce((sum, p) => sum + p[0], 0) / 4, at.reduce((sum, p) => sum + p[1], 0) / 4);
    }
  }

  drawMarks(pen) {
    const zoom = this.zoomNow(), { peaks, owners, predictions } = this.marks;
    const colour = owner => css(owner < 0 ? this.colours.peak : this.colours.lattices[owner % this.colours.lattices.length]);
    const each = (places, size, shape) => {
      pen.beginPath();
      for (let i = 0; i < places.length; i += 2) {
        const [x, y] = this.toScreen(places[i], places[i + 1]);
        if (x > -size && y > -size && x < this.across + size && y < this.down + size) shape(x, y, size);
      }
    };
    if (this.layers.predictions) predictions.forEach((places, lattice) => {
      each(places, Math.max(MARK_LEAST * 0.6, 2.5 * zoom), (x, y, r) => pen.rect(x - r, y - r, 2 * r, 2 * r));
      this.stroke(pen, colour(lattice), 1);
    });
    if (!this.layers.peaks) return;
    for (let owner = -1; owner < predictions.length; owner++) {
      const own = [];
      owners.forEach((o, i) => { if (o === owner) own.push(peaks[2 * i], peaks[2 * i + 1]); });
      each(own, Math.max(MARK_LEAST, 4 * zoom), (x, y, r) => { pen.moveTo(x + r, y); pen.arc(x, y, r, 0, 2 * Math.PI); });
      this.stroke(pen, colour(owner));
    }
  }

  drawNumbers(pen) {
    const values = this.detail.values, zoom = this.zoomNow();
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.font = `${Math.min(14, zoom / 3)}px system-ui, sans-serif`;
    pen.lineWidth = 2.5;
    pen.strokeStyle = "rgba(255,255,255,0.8)";
    pen.fillStyle = "#222";
    for (let i = 0; i < values.length; i += 3) {
      const [x, y] = this.toScreen(values[i], values[i + 1]);
      const value = values[i + 2], text = Number.isInteger(value) ? String(value) : value.toPrecision(3);
      pen.strokeText(text, x, y);
      pen.fillText(text, x, y);
    }
    pen.font = "12px system-ui, sans-serif";
  }
}
