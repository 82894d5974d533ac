const PICTURES = [["peaks", "peaks", "the sum of the peaks of all hits"], ["maximum", "maximum", "the largest value of each pixel in any hit"]];

const lasting = seconds => {
  if (!known(seconds)) return "";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
};

function render({ model, el }) {
  const client = crypto.randomUUID?.() ?? String(Math.random());
  const box = node("div", { className: "sfxlab board run-monitor" });
  box.dataset.lmSuppressShortcuts = "true";
  box.addEventListener("keydown", event => event.stopPropagation());
  const message = node("div", { className: "message", role: "alert" });
  const top = node("div", { className: "facts top" }), progress = node("div", { className: "progress" }), who = node("div", { className: "quiet" });
  const left = node("div"), right = node("div", { className: "powder" });
  const reasons = node("div", { className: "reasons" }), workers = node("div", { className: "workers" });
  const picture = node("img", { alt: "virtual powder", hidden: true }), none = node("p", { className: "quiet", textContent: "no picture yet" });
  const kinds = node("span");
  box.append(top, progress, who, message, node("div", { className: "parts" }, left, right));
  el.append(box);
  const rates = chart(left, { height: 170, title: "Rates along the run", label: "hit rate and indexing rate along the run" });
  const speed = chart(left, { height: 120, title: "Frames per second", label: "frames per second along time" });
  left.append(node("h4", { textContent: "Not indexed or failed, because" }), reasons, workers);
  right.append(node("div", { className: "row" }, node("b", { textContent: "Virtual powder" }), kinds), picture, none);

  let kind = "peaks", drawn = "", asking = false, url = "";
  const buttons = PICTURES.map(([name, label, title]) => node("button", { textContent: label, title, onclick: () => { kind = name; mark(); ask(); } }));
  kinds.append(...buttons);
  const mark = () => buttons.forEach((button, i) => button.classList.toggle("on", PICTURES[i][0] === kind));

  function ask() {
    const wanted = `${model.get("seen").path} ${kind} ${model.get("seen").version}`;
    if (asking || !model.get("seen").path || wanted === drawn) return;
    asking = wanted;
    model.send({ kind: "picture", of: kind, client });
  }
  function answered(content, buffers) {
    if (content.kind !== "picture" || content.client !== client) return;
    drawn = asking;
    asking = false;
    picture.hidden = content.empty;
    none.hidden = !content.empty;
    if (!content.empty) {
      URL.revokeObjectURL(url);
      url = URL.createObjectURL(new Blob([buffers[0]], { type: "image/png" }));
      picture.src = url;
    }
    ask();
  }

  const fact = (value, label) => node("span", {}, node("b", { textContent: value }), label);
  const percent = value => (known(value) ? `${(100 * value).toFixed(1)} %` : "–");
  const text = value => value.toLocaleString("en");

  function drawTop(seen) {
    const { counts, recent } = seen;
    top.replaceChildren(
      node("span", { className: `state ${seen.status}`, textContent: seen.status }), fact(text(counts.frames), `of ${text(seen.n_frames)} frames`),
      fact(percent(seen.hit_rate), `hits (${text(counts.hits)})`), fact(percent(seen.indexing_rate), `of them indexed (${text(counts.indexed)})`),
      fact(text(counts.lattices), "lattices"), ...(counts.failed ? [fact(text(counts.failed), "failed")] : []),
      fact(known(seen.speed) ? seen.speed.toFixed(seen.speed < 10 ? 1 : 0) : "–", "frames/s"), ...(known(seen.seconds_left) && seen.seconds_left > 0 ? [fact(lasting(seen.seconds_left), "left")] : []),
      ...(seen.ice ? [fact(text(seen.ice), "with ice")] : []), ...(seen.salt ? [fact(text(seen.salt), "with salt")] : []),
    );
    const share = n => `${(100 * n / Math.max(1, seen.n_frames)).toFixed(2)}%`;
    const bar = (name, n) => { const made = node("i", { className: name, title: `${name}: ${text(n)}` }); made.style.width = share(n); return made; };
    progress.replaceChildren(bar("indexed", counts.indexed), bar("hits", counts.hits - counts.indexed), bar("blank", counts.frames - counts.hits - counts.failed), bar("failed", counts.failed));
    const last = recent.frames ? `last 5 min of work: ${percent(recent.hits / recent.frames)} hits (${percent(recent.band[0])}–${percent(recent.band[1])})` : "";
    who.textContent = [seen.path, seen.stage, seen.writer ? `written by ${seen.writer}` : known(recent.ago) ? `last frames ${lasting(recent.ago)} ago` : "", last].filter(Boolean).join(" · ");
  }

  function drawCharts(seen) {
    const found = seen.rates, scaled = values => values.map(value => (known(value) ? 100 * value : null));
    const ends = found.first.length ? [found.first[0], Math.max(found.last.at(-1), 1)] : [0, Math.max(1, seen.n_frames)];
    const rule = model.get("frame");
    rates.draw({
      x: ends, y: [0, 102], label: "frame", marks: [
        { kind: "band", x: found.frame, low: scaled(found.hit_low), high: scaled(found.hit_high), colour: "blue" },
        { kind: "band", x: found.frame, low: scaled(found.indexed_low), high: scaled(found.indexed_high), colour: "green" },
        { kind: "line", x: found.frame, y: scaled(found.hit), colour: "blue", name: "hits / frames, %" },
        { kind: "line", x: found.frame, y: scaled(found.indexed), colour: "green", name: "indexed / hits, %" },
        ...(rule >= 0 ? [{ kind: "rule", x: rule, colour: "orange" }] : []),
      ],
    });
    rates.onPoint(place => {
      const i = found.last.findIndex(last => last >= place);
      return i < 0 ? "" : `frames ${found.first[i]}–${found.last[i]}: ${percent(found.hit[i])}, ${percent(found.indexed[i])}`;
    });
    const { edges, frames_per_second: values } = seen.throughput;
    const unit = (edges.at(-1) ?? 0) > 7200 ? [3600, "h"] : (edges.at(-1) ?? 0) > 180 ? [60, "min"] : [1, "s"];
    speed.draw({
      x: [0, (edges.at(-1) || 1) / unit[0]], y: [0, 1.1 * (Math.max(0, ...values.filter(known)) || 1)], label: `time / ${unit[1]}`,
      marks: [{ kind: "bars", edges: edges.map(edge => edge / unit[0]), counts: values, colour: "violet" }],
    });
  }

  function drawReasons(seen) {
    const most = Math.max(1, ...seen.reasons.map(([, n]) => n));
    const lines = seen.reasons.map(([reason, n]) => {
      const bar = node("i");
      bar.style.width = `${(100 * n / most).toFixed(1)}%`;
      const button = node("button", { title: `select these frames: ${reason}`, disabled: model.get("disabled"), onclick: () => model.send({ kind: "select", reason }) }, bar, node("span", { textContent: reason }), node("span", { textContent: text(n) }));
      button.classList.toggle("on", model.get("selection").why === reason);
      return button;
    });
    reasons.replaceChildren(...(lines.length ? lines : [node("p", { className: "quiet", textContent: "none" })]));
    if (!seen.workers.length) { workers.replaceChildren(); return; }
    const table = node("table", { className: "figures" }, node("tr", {}, ...["worker", "host", "threads", "at work on", "CPU / %", "memory / MiB"].map(label => node("th", { textContent: label }))));
    for (const one of seen.workers) table.append(node("tr", {}, ...[one.name, one.host, one.threads, one.processing, one.cpu?.toFixed(0), `${one.memory?.toFixed(0)} of ${one.limit?.toFixed(0)}`].map(cell => node("td", { textContent: cell ?? "" }))));
    workers.replaceChildren(node("h4", { textContent: `${seen.workers.length} workers` }), table);
  }

  function draw() {
    message.textContent = model.get("message");
    const seen = model.get("seen");
    if (!seen.counts) return;
    drawTop(seen);
    drawCharts(seen);
    drawReasons(seen);
    ask();
  }

  rates.onPick(place => { if (!model.get("disabled")) { model.set("frame", Math.max(0, Math.round(place))); model.save_changes(); } });
  model.on("change:seen change:message change:frame change:selection change:disabled", draw);
  model.on("msg:custom", answered);
  mark();
  draw();
  return () => { rates.end(); speed.end(); URL.revokeObjectURL(url); };
}

export default { render };
