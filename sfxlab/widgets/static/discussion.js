// What people say of the frame that is shown, of its crystals and of the run; and where they differ.

const HELP = [
  ["C", "write a comment"], ["T", "tag"], ["+ −", "vote for it, against it; once more takes the vote back"],
  ["F, Y, R", "the frame, a crystal of it, the run"], ["1, 2, 3", "said of it, everything, where people differ"],
  ["↓ ↑, Enter", "through the list; show what is chosen"], ["N, P", "next, previous one on which people differ"],
  ["/", "filter"], ["Esc", "back to the list"], ["?", "this help"],
];
const SCOPES = [["item", "said of it"], ["everything", "everything"], ["differences", "people differ"]];

const moment = text => {
  const time = new Date(text), today = new Date().toDateString() === time.toDateString();
  const clock = time.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
  return today ? clock : `${time.toLocaleDateString([], { year: "numeric", month: "short", day: "numeric" })} ${clock}`;
};
const people = names => names.join(", ");

function render({ model, el }) {
  const button = (text, title, call, className = "") => element("button", { textContent: text, title, onclick: call, className });
  const box = element("div", { className: "sfxlab discussion", tabIndex: 0 });
  box.dataset.lmSuppressShortcuts = "true";
  const kinds = element("span", { className: "kinds" }), crystals = element("span", { className: "quiet crystals" });
  const tags = element("span", { className: "tags" }), votes = element("span", { className: "votes" });
  const tagName = element("input", { type: "text", placeholder: "tag, Enter", ariaLabel: "tag", className: "tag-name", maxLength: 200 });
  const comment = element("textarea", { rows: 2, placeholder: "comment, Enter", ariaLabel: "comment" });
  const send = button("send", "write this comment (Enter)", () => write());
  const message = element("div", { className: "message", role: "alert" });
  const scopes = SCOPES.map(([name]) => button("", "", () => set({ scope: name }), `scope ${name}`));
  const filter = element("input", { type: "text", placeholder: "filter: words, names", ariaLabel: "filter", spellcheck: false });
  const list = element("div", { className: "list", role: "list" });
  const agreements = element("div", { className: "quiet agreements" });
  const help = element("table", { className: "help", hidden: true },
    ...HELP.map(([key, words]) => element("tr", {}, element("th", { textContent: key }), element("td", { textContent: words }))));
  box.append(
    element("div", { className: "row" }, kinds, crystals, element("span", { className: "space" }), button("?", "keys (?)", () => { help.hidden = !help.hidden; }, "help-button")), help,
    element("div", { className: "row said" }, tags, tagName, element("span", { className: "space" }), votes),
    element("div", { className: "row writing" }, comment, send), message,
    element("div", { className: "row scopes" }, ...scopes, filter), list, agreements,
  );
  el.append(box);

  let chosen = -1;
  const seen = () => model.get("seen"), off = () => model.get("disabled");
  const set = values => { for (const [name, value] of Object.entries(values)) model.set(name, value); model.save_changes(); };
  const tell = content => { if (!off()) model.send(content); };
  const me = () => el.dataset.me ?? seen().person;
  const mine = () => seen().votes?.[me()] ?? 0;
  const vote = choice => tell({ kind: "vote", choice: mine() === choice ? 0 : choice });
  const write = () => { const text = comment.value.trim(); if (text && !off()) { tell({ kind: "comment", text }); comment.value = ""; } };
  const items = () => model.get("scope") === "differences" ? seen().differences.map(one => one.about) : seen().entries.map(one => one.on[0]);
  const show = about => { if (/^(frame|crystal) \d+$/.test(about ?? "") || /^run /.test(about ?? "")) model.send({ kind: "about", about }); };

  function drawTop() {
    const kind = model.get("kind"), { about = "" } = seen(), rows = model.get("crystals");
    const words = { frame: model.get("frame") < 0 ? "no frame" : `frame ${model.get("frame")}`, crystal: kind !== "crystal" ? "crystal" : rows.length ? `crystal ${model.get("crystal")}` : "no crystal", run: model.get("path") ? `run ${model.get("path").split("/").filter(Boolean).at(-1)}` : "no run" };
    kinds.replaceChildren(...Object.entries(words).map(([name, text]) => {
      const made = button(text, `talk about the ${name}`, () => set({ kind: name }), name);
      made.classList.toggle("on", name === kind);
      return made;
    }));
    crystals.replaceChildren(...(kind === "crystal" && rows.length > 1 ? [`of frame ${model.get("frame")}: `, ...rows.map(row => {
      const made = button(String(row), `crystal ${row}`, () => set({ crystal: row }));
      made.classList.toggle("on", row === model.get("crystal"));
      return made;
    })] : []));
    tags.replaceChildren(...(seen().tags ?? []).map(one => {
      const given = one.given.length > 0, own = one.given.includes(me());
      const who = [given ? `given by ${people(one.given)}` : "", one.refused.length ? `taken away by ${people(one.refused)}` : ""].filter(Boolean).join("; ");
      const made = button("", `${who} – ${own ? "take it away" : "give it too"}`, () => tell({ kind: "tag", tag: one.tag, on: !own }), "tag");
      made.append(element("b", { textContent: one.tag }), ` ${people(one.given)}`, ...(one.refused.length ? [" ", element("s", { textContent: people(one.refused), title: "took it away" })] : []));
      made.classList.toggle("own", own);
      made.classList.toggle("disputed", given && one.refused.length > 0);
      return made;
    }));
    votes.replaceChildren(...[[1, "▲", "for"], [-1, "▼", "against"]].map(([choice, sign, word]) => {
      const who = Object.entries(seen().votes ?? {}).filter(([, given]) => given === choice).map(([person]) => person);
      const made = button(`${sign} ${who.length}`, `vote ${word} ${about}${who.length ? `: ${people(who)}` : ""}`, () => vote(choice), word);
      made.classList.toggle("on", mine() === choice);
      return made;
    }));
    for (const control of box.querySelectorAll(".said button, .said input, .writing > *")) control.disabled = off() || !about;
    message.textContent = model.get("message");
  }

  function line(about, place, ...parts) {
    const made = element("div", { className: "line", role: "listitem" }, ...parts);
    made.dataset.about = about ?? "";
    made.classList.toggle("here", about === seen().about);
    made.classList.toggle("chosen", place === chosen);
    made.onclick = () => { chosen = place; show(about); drawList(); };
    return made;
  }
  const link = about => element("span", { className: "about", textContent: about });

  function entryLine(one, place) {
    const more = one.n_on > one.on.length ? ` and ${one.n_on - one.on.length} more` : "", where = [];
    one.on.forEach((about, i) => where.push(i ? ", " : "", link(about)));
    const tag = element("span", { className: "tag-word", textContent: one.text });
    const words = {
      comment: ["on ", ...where, ": ", element("span", { className: "text", textContent: one.text })],
      tag: ["tagged ", ...where, more, " ", tag], untag: ["took ", tag, " off ", ...where, more],
      vote: [{ 1: "voted for ", "-1": "voted against " }[one.text] ?? "took back the vote on ", ...where],
    }[one.what];
    const when = element("time", { dateTime: one.time, title: new Date(one.time).toLocaleString(), textContent: moment(one.time) });
    return line(one.on[0], place, element("b", { className: "who", textContent: one.person }), element("span", { className: "what" }, ...words), when);
  }

  function differenceLine(one, place) {
    const said = Object.entries(one.said).map(([person, { tags: given, refused, vote: choice }]) => element("span", { className: "opinion" },
      element("b", { textContent: person }), " ",
      ...given.map(tag => element("span", { className: "tag-word", textContent: tag })),
      ...refused.map(tag => element("s", { className: "tag-word", textContent: tag, title: "took it away" })),
      { 1: " ▲", "-1": " ▼" }[choice] ?? ""));
    return line(one.about, place, link(one.about), element("span", { className: "what" }, ...said), element("span", { className: "quiet", textContent: one.disputed ? "contrary" : "other tags" }));
  }

  function drawList() {
    const scope = model.get("scope"), now = seen();
    if (!now.entries) return;
    const counts = { item: now.n_here, everything: now.n_entries, differences: now.n_differences };
    scopes.forEach((made, i) => {
      const [name, words] = SCOPES[i];
      made.textContent = `${words} (${counts[name].toLocaleString("en")})`;
      made.classList.toggle("on", scope === name);
    });
    if (document.activeElement !== filter) filter.value = model.get("filter");
    filter.hidden = scope === "differences";
    const lines = scope === "differences" ? now.differences.map(differenceLine) : now.entries.map(entryLine);
    const left = (scope === "differences" ? now.n_differences : now.n_listed) - lines.length;
    const nothing = { item: now.about ? "nothing is said of it yet" : "nothing is shown that could be talked about", everything: "nothing is said yet", differences: `people do not differ on ${model.get("kind")}s` };
    if (!lines.length) lines.push(element("p", { className: "quiet empty", textContent: model.get("filter") && scope !== "differences" ? "nothing passes the filter" : nothing[scope] }));
    if (left > 0) lines.push(element("p", { className: "quiet", textContent: `and ${left.toLocaleString("en")} more` }));
    list.replaceChildren(...lines);
    agreements.textContent = scope === "differences" ? now.agreements.join("; ") : "";
  }

  const draw = () => { drawTop(); drawList(); };
  function move(step) {
    const all = items();
    if (!all.length) return;
    chosen = Math.min(Math.max(0, chosen + step), all.length - 1);
    drawList();
    list.children[chosen]?.scrollIntoView({ block: "nearest" });
  }
  function differ(step) {
    const all = seen().differences.map(one => one.about);
    if (!all.length) return;
    const here = all.indexOf(seen().about), next = here < 0 ? (step > 0 ? 0 : all.length - 1) : (here + step + all.length) % all.length;
    chosen = model.get("scope") === "differences" ? next : chosen;
    show(all[next]);
  }

  box.addEventListener("keydown", event => {
    event.stopPropagation();
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target.matches("input, textarea")) { if (event.key === "Escape") box.focus(); return; }
    if (event.target.matches("button") && (event.key === "Enter" || event.key === " ")) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const scope = { 1: "item", 2: "everything", 3: "differences" }[key], kind = { f: "frame", y: "crystal", r: "run" }[key];
    if (scope) set({ scope });
    else if (kind) set({ kind });
    else if (key === "c") comment.focus();
    else if (key === "t") tagName.focus();
    else if (key === "/") { if (filter.hidden) return; filter.focus(); }
    else if (key === "+" || key === "=") vote(1);
    else if (key === "-") vote(-1);
    else if (key === "ArrowDown") move(1);
    else if (key === "ArrowUp") move(-1);
    else if (key === "Enter") show(items()[chosen]);
    else if (key === "n") differ(1);
    else if (key === "p") differ(-1);
    else if (key === "?") help.hidden = !help.hidden;
    else if (key === "Escape") help.hidden = true;
    else return;
    event.preventDefault();
  });
  comment.addEventListener("keydown", event => { if (event.key === "Enter" && !event.shiftKey) { event.preventDefault(); write(); } });
  tagName.addEventListener("keydown", event => {
    if (event.key !== "Enter" || !tagName.value.trim()) return;
    tell({ kind: "tag", tag: tagName.value.trim(), on: true });
    tagName.value = "";
  });
  let typing = 0;
  filter.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(() => set({ filter: filter.value }), 250); });

  const bound = [["change:scope change:filter change:kind", () => { chosen = -1; draw(); }], ["change:seen change:message change:disabled change:frame change:crystal change:crystals change:path", draw]];
  for (const [events, call] of bound) model.on(events, call);
  el.addEventListener("sfxlab-me", draw); // several people may sit at one kernel
  draw();
  return () => { for (const [events, call] of bound) model.off(events, call); };
}

export default { render };
