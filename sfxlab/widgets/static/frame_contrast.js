// Contrast and colours, which the page changes by itself: numbers, gamma, and a strip with the values of the picture.

class Contrast extends Painting {
  setContrast(changes) {
    if (this.isRefused()) return;
    this.contrast = { ...this.contrast, ...changes };
    this.adjusting = true;
    this.showControls();
    this.paint();
    this.sendContrast();
  }

  showContrast() { this.contrast = this.model.get("contrast"); this.showControls(); }

  showControls() {
    const [low, high] = this.limits(), digits = high - low > 20 ? 0 : 2;
    this.low.value = Number(low.toFixed(digits));
    this.high.value = Number(high.toFixed(digits));
    this.gamma.value = this.contrast.gamma ?? 1;
    this.gamma.title = `Gamma ${this.contrast.gamma ?? 1}`;
    this.map.value = this.contrast.map;
    this.auto.classList.toggle("on", this.contrast.low === null && this.contrast.high === null);
    this.drawStrip();
  }

  stripScale() {
    // Positions along the strip are even in asinh, as codes are, whatever the number of bits.
    const layer = this.detail ?? this.whole;
    if (!layer) return null;
    const { centre, width, low, step, bits } = layer.scale, end = low + (2 ** bits - 1 - FIRST) * step;
    // With room on both sides, for ends of the contrast that no pixel of the frame reaches.
    const [l, h] = this.limits().map(value => Math.asinh((value - centre) / width));
    const from = Math.min(low, l) - 0.2, to = Math.max(Math.min(end, 12), h) + 0.2;
    return {
      layer, position: value => (Math.asinh((value - centre) / width) - from) / (to - from),
      value: share => centre + width * Math.sinh(from + share * (to - from)),
      code: share => Math.round(FIRST + (from + share * (to - from) - low) / step),
    };
  }

  drawStrip() {
    const scale = this.stripScale(), pen = this.strip.getContext("2d"), { width, height } = this.strip;
    pen.clearRect(0, 0, width, height);
    if (!scale || !width) return;
    const { layer } = scale, bins = 128;
    if (!layer.histogram) {
      layer.histogram = new Uint32Array(2 ** layer.scale.bits);
      for (let i = 0; i < layer.codes.length; i += 7) layer.histogram[layer.codes[i]]++;
    }
    const counts = Array.from({ length: bins }, (_, i) => {
      let sum = 0;
      for (let code = Math.max(FIRST, scale.code(i / bins)); code < Math.min(layer.histogram.length, scale.code((i + 1) / bins)); code++) sum += layer.histogram[code];
      return Math.log1p(sum);
    });
    const most = Math.max(...counts, 1), style = getComputedStyle(this.root);
    pen.fillStyle = style.getPropertyValue("--jp-ui-font-color2") || "#777";
    counts.forEach((count, i) => pen.fillRect(i * width / bins, height * (1 - count / most), width / bins, height * count / most));
    pen.fillStyle = style.getPropertyValue("--jp-brand-color1") || "#1976d2";
    for (const value of this.limits()) pen.fillRect(scale.position(value) * width - 2, 0, 4, height);
  }

  stripDown(event) {
    const scale = this.stripScale();
    if (!scale || this.model.get("disabled")) return;
    const share = event.offsetX / this.strip.clientWidth, [low, high] = this.limits().map(scale.position);
    this.handle = Math.abs(share - low) < Math.abs(share - high) ? "low" : "high";
    this.strip.setPointerCapture(event.pointerId);
    this.stripMove(event);
  }

  stripMove(event) {
    if (!this.handle) return;
    const scale = this.stripScale(), share = Math.max(0, Math.min(1, event.offsetX / this.strip.clientWidth));
    const [low, high] = this.limits(), value = Number(scale.value(share).toPrecision(4));
    this.setContrast(this.handle === "low" ? { low: Math.min(value, high), high } : { low, high: Math.max(value, low) });
  }

  setLayer(name, on) { this.save({ layers: { ...this.layers, [name]: on } }); }
}
