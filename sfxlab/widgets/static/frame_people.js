// Who else looks: names to click on, whose view is shown, and what somebody did last.

class People extends Contrast {
  buildPeople() {
    this.chips = new Map();
    const button = (name, text, title, whom) =>
      this[name] = element("button", { className: `whose ${name}`, textContent: text, title, onclick: () => this.lookWith(whom) });
    this.names = element("span", { className: "names" });
    this.latest = element("span", { className: "news" });
    this.latest.setAttribute("aria-live", "polite");
    this.company = element("div", { className: "people", hidden: true },
      button("everybody", "everybody", "Look where everybody looks (E)", ""), this.names,
      button("alone", "alone", "Look on your own from here on (O)", null), this.latest);
    return this.company;
  }

  get me() { return this.place.dataset.me; }

  lookWith(whom) { this.model.send({ kind: "follow", client: this.client, request: null, frame: this.frame, whom }); }

  followNext() {
    const others = this.model.get("people").filter(one => this.isOther(one)).map(one => one.name);
    if (others.length) this.lookWith(others[(others.indexOf(this.model.get("following")) + 1) % others.length]);
  }

  isOther(person) { return !person.same && person.name !== this.me; }

  showPeople() {
    const people = this.model.get("people"), following = this.model.get("following");
    this.company.hidden = !people.length;
    this.everybody.classList.toggle("on", following === "");
    this.alone.classList.toggle("on", following === null);
    for (const [name, chip] of this.chips) if (!people.some(one => one.name === name)) { chip.remove(); this.chips.delete(name); }
    people.forEach((person, i) => {
      const chip = this.chip(person, following === person.name);
      if (this.names.children[i] !== chip) this.names.insertBefore(chip, this.names.children[i] ?? null); // the focus stays
    });
    const followed = people.find(one => one.name === following);
    this.stage.style.borderColor = followed ? followed.colour : "";
    this.root.dataset.following = following ?? "alone";
  }

  chip(person, isFollowed) {
    const { name, who, role, colour, looks, same } = person;
    if (!this.chips.has(name)) this.chips.set(name, element("button", { className: "person", onclick: () => this.lookWith(name) }));
    const chip = this.chips.get(name), other = this.isOther(person);
    chip.dataset.name = name;
    chip.style.setProperty("--colour", colour);
    chip.classList.toggle("followed", isFollowed);
    chip.ariaPressed = String(isFollowed);
    chip.disabled = !other;
    chip.title = other ? `${who}, ${role}: click to follow (W: the next one)` : name === this.me || !this.me ? "This is you" : `${who} shares this kernel and sees the same`;
    const text = [element("i", { className: "dot" }), name === this.me || (same && !this.me) ? `${who} (you)` : who];
    chip.replaceChildren(...text, ...(looks ? [element("span", { className: "quiet", textContent: looks })] : []));
    return chip;
  }

  showNews() {
    const { person, who, text } = this.model.get("news");
    if (!person || person === this.me) return;
    const colour = this.model.get("people").find(one => one.name === person)?.colour ?? "currentColor";
    const dot = element("i", { className: "dot" });
    dot.style.setProperty("--colour", colour);
    this.latest.replaceChildren(dot, element("b", { textContent: who }), ` ${text}`);
  }
}
