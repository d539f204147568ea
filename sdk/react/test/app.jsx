// A small application for a real browser: built by `npm test` into build/app.js, opened by tests/browser.
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";
import { createClient } from "@gnomon-analytics/js";
import { AnalyticsProvider, PageTracking, useAnalytics } from "../src/index.tsx";

window.dropped = [];
window.client = createClient({ ...window.options, onDrop: (one) => window.dropped.push(one) });

function Shop() {
  const { track, identify } = useAnalytics();
  const [path, go] = useState(location.pathname);
  const visit = (next) => (history.pushState(null, "", next), go(next));
  return (
    <>
      <h1>{path}</h1>
      <button id="buy" onClick={(event) => track("click", { label: event.target.dataset.label })}>
        Buy
      </button>
      <button id="plans" onClick={() => visit("/plans")}>
        Plans
      </button>
      <button id="sign-in" onClick={() => identify("u1")}>
        Sign in
      </button>
    </>
  );
}

createRoot(document.getElementById("root")).render(
  <StrictMode>
    <AnalyticsProvider client={window.client}>
      <PageTracking />
      <Shop />
    </AnalyticsProvider>
  </StrictMode>,
);
window.ready = true;
