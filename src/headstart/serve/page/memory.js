// What the browser remembers for the page; a browser that is told to keep nothing keeps nothing, and the page works all the same.

/** The text kept under a name, or an empty one. `store` is "localStorage", or "sessionStorage" for as long as the tab is open. */
export function recall(store, name) {
  try {
    return window[store].getItem(name) ?? "";
  } catch {
    return "";
  }
}

/** Keep a text under a name, if the browser lets us. */
export function remember(store, name, text) {
  try {
    window[store].setItem(name, text);
  } catch {
    // Then it is asked for again next time.
  }
}
