// A document for React, and the globals that the client looks at. Requests go through Node's own fetch.
import { Window } from "happy-dom";

export function openDocument(url = "https://shop.example/start") {
  const window = new Window({ url });
  const names = [
    "document",
    "history",
    "location",
    "navigator",
    "localStorage",
    "HTMLElement",
    "Node",
    "Element",
    "MouseEvent",
  ];
  for (const name of names)
    Object.defineProperty(globalThis, name, { value: window[name], configurable: true, writable: true });
  globalThis.window = window;
  globalThis.addEventListener = window.addEventListener.bind(window);
  globalThis.removeEventListener = window.removeEventListener.bind(window);
  globalThis.IS_REACT_ACT_ENVIRONMENT = true;
  return window;
}
