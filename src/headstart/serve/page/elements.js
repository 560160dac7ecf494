// Elements of the page, made from text and never from markup.

/** An element with properties (`class`, `text`, any attribute, `on…` as a listener) and children. */
export function el(name, { class: classes, text, ...rest } = {}, ...children) {
  const made = document.createElement(name);
  if (classes) made.className = classes;
  if (text !== undefined) made.textContent = text;
  for (const [key, value] of Object.entries(rest)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children.filter(Boolean));
  return made;
}

/** A bar that is filled to a share. */
export function bar(share, classes = "") {
  const fill = el("i", { class: classes });
  fill.style.width = `${Math.min(100, Math.max(0, share * 100))}%`;
  return el("span", { class: "track", "aria-hidden": "true" }, fill);
}
