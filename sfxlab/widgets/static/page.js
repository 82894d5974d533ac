// Around every widget: the kernel is told who sits at this page, since people who share a notebook share its kernel.

const whoSitsHere = (async () => {
  // JupyterLab and Notebook say where their server is; other front ends know of no people.
  const told = JSON.parse(document.getElementById("jupyter-config-data")?.textContent ?? "null");
  if (!told) return null;
  const answer = await fetch(`${told.baseUrl ?? "/"}api/me`, { headers: told.token ? { Authorization: `token ${told.token}` } : {} });
  return answer.ok ? (await answer.json()).identity ?? null : null;
})().catch(() => null);

function introduce(model, el) {
  const view = Math.random().toString(36).slice(2);
  const tell = async () => { const identity = await whoSitsHere; if (here) model.send({ kind: "page", view, identity }); };
  const leave = () => { here = false; model.off("msg:custom", heard); model.send({ kind: "page", view, gone: true }); };
  const heard = content => {
    if (content.kind === "who is there") tell();
    else if (content.kind === "you" && content.view === view) {
      el.dataset.me = content.name;
      el.dispatchEvent(new CustomEvent("sfxlab-me"));
    }
  };
  let here = true;
  model.on("msg:custom", heard);
  window.addEventListener("pagehide", leave);
  tell();
  return () => { window.removeEventListener("pagehide", leave); leave(); };
}

export default {
  render({ model, el, ...rest }) {
    const leave = introduce(model, el), end = exportedWidget.render({ model, el, ...rest });
    return () => { leave(); end?.(); };
  },
};
