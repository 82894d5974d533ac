// The head of a comparison: what was done otherwise, counts that choose what is listed, and the frame that is shown.

const KEYS = { a: "", l: "lost", m: "moved", g: "gained", s: "same" };
const WORDS = {
  lost: "fewer lattices, or none any more", moved: "as many lattices, but not the same ones, or turned or strained",
  gained: "more lattices, or a hit where none was", same: "the same lattices",
};

function render({ model, el }) {
  const box = element("div", { className: "sfxlab comparison", tabIndex: 0 });
  box.dataset.lmSuppressShortcuts = "true";
  const title = element("b"), only = element("span", { className: "quiet" }), counts = element("span", { className: "counts" });
  const about = element("div", { className: "about", role: "status" }), message = element("div", { className: "message", role: "alert" });
  const summary = element("summary"), table = element("table", { className: "figures" }), otherwise = element("details", { open: true }, summary, table);
  const step = on => model.send({ kind: "step", on });
  const steps = [["◀", "the frame listed before (P)", 0], ["▶", "the next frame that is listed (N)", 1]].map(([textContent, hint, on]) => element("button", { textContent, title: hint, onclick: () => step(on) }));
  box.append(element("div", { className: "row" }, title, only), otherwise, element("div", { className: "row" }, counts, ...steps, about), message);
  el.append(box);

  const choose = state => { model.set("state", state); model.save_changes(); };
  function draw() {
    title.textContent = model.get("title");
    only.textContent = model.get("only").join("; ");
    const found = model.get("counts"), all = Object.values(found).reduce((sum, n) => sum + n, 0), state = model.get("state");
    counts.replaceChildren(...[["", all], ...Object.entries(found)].map(([name, n]) => {
      const button = element("button", { className: `state ${name}`, title: `${WORDS[name] ?? "all frames"} (${(name || "all")[0].toUpperCase()})`, onclick: () => choose(name) });
      button.append(element("b", { textContent: n.toLocaleString("en") }), ` ${name || "all"}`);
      button.classList.toggle("on", name === state);
      return button;
    }));
    const lines = model.get("differences");
    summary.textContent = lines.length ? `${lines.length} ${lines.length === 1 ? "thing was" : "things were"} done otherwise` : "nothing was done otherwise";
    table.replaceChildren(element("tr", {}, ...["", "what", "before", "after"].map(textContent => element("th", { textContent }))), ...lines.map(([kind, name, before, after]) => {
      const row = element("tr", {}, element("td", { textContent: kind }));
      if (kind === "input") row.append(element("td", { textContent: name, colSpan: 3 }));
      else row.append(...[name, before, after].map(textContent => element("td", { textContent })));
      return row;
    }));
    table.hidden = !lines.length;
    about.textContent = model.get("about");
    message.textContent = model.get("message");
    for (const button of steps) button.disabled = model.get("disabled");
  }

  box.addEventListener("keydown", event => {
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key in KEYS) choose(KEYS[key]);
    else if (key === "n" || key === "p") step(key === "n" ? 1 : 0);
    else return;
    event.preventDefault();
  });
  const events = "change:title change:only change:counts change:state change:differences change:about change:message change:disabled";
  model.on(events, draw);
  draw();
  return () => model.off(events, draw);
}

export default { render };
