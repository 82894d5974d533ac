// What several widgets build their pages with.

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function throttled(call, milliseconds) {
  let timer = null, again = false;
  const run = () => {
    timer = setTimeout(() => { timer = null; if (again) { again = false; run(); } }, milliseconds);
    call();
  };
  return () => { if (timer) again = true; else run(); };
}

const css = colour => `rgb(${colour.join(",")})`;
