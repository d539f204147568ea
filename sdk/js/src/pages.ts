/** Page views of single-page applications: notices each change of the path, whoever makes it. */

export function watchPaths(changed: () => void): () => void {
  const original = history.pushState;
  let on = true;
  const patched: typeof original = function (this: History, ...args) {
    original.apply(this, args);
    if (on) changed();
  };
  history.pushState = patched;
  addEventListener("popstate", changed);
  return () => {
    on = false;
    // Somebody may have patched it after us: then ours stays in their chain and does nothing.
    if (history.pushState === patched) history.pushState = original;
    removeEventListener("popstate", changed);
  };
}
