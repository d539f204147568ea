// Hooks in a document, with the real client and a real server on loopback: what arrives is what was shown.
import assert from "node:assert/strict";
import { beforeEach, test } from "node:test";
import { openService } from "../../js/test/service.mjs";
import { openDocument } from "./dom.mjs";

const window = openDocument();
const { act, createElement: h, StrictMode, useState } = await import("react");
const { createRoot } = await import("react-dom/client");
const { createClient } = await import("@gnomon-analytics/js");
const { AnalyticsProvider, PageTracking, useAnalytics, usePageTracking } = await import("../dist/index.js");

let service, client, root;
beforeEach(async () => {
  window.localStorage.clear();
  history.replaceState(null, "", "/start");
  service = await openService();
  client = createClient({ url: service.url, key: "wk", flushInterval: 5 });
  root = createRoot(document.body.appendChild(document.createElement("div")));
});

const render = (...children) =>
  act(async () => root.render(h(StrictMode, null, h(AnalyticsProvider, { client }, ...children))));

async function arrived() {
  assert.equal(await client.flush(5_000), true);
  assert.deepEqual(service.faults, []);
  return [...service.events.values()];
}

async function end() {
  await act(async () => root.unmount());
  await client.close();
  await service.close();
}

test("the hook gives the provider's client, the same at each render", async () => {
  const seen = new Set();
  let again;
  function Button() {
    const { track } = useAnalytics();
    seen.add(useAnalytics());
    const [n, set] = useState(0);
    again = () => set(n + 1);
    return h("button", { id: "buy", onClick: () => track("click", { n }) }, n);
  }
  await render(h(Button));
  await act(async () => again());
  await act(async () => document.getElementById("buy").click());
  assert.deepEqual([...seen], [client]);
  const events = await arrived();
  assert.deepEqual(
    events.map((e) => [e.type, e.properties, e.source]),
    [["click", { n: 1 }, "web"]],
  );
  assert.ok(events[0].device_id && events[0].session_id);
  await end();
});

test("strict mode doubles no page, and every new path is one", async () => {
  await render(h(PageTracking));
  await act(async () => history.pushState(null, "", "/orders?page=2"));
  await act(async () => history.pushState(null, "", "/orders?page=3"));
  await render(h(PageTracking), h("p", null, "more"));
  await act(async () => history.pushState(null, "", "/start"));
  const events = await arrived();
  assert.deepEqual(
    events.map((e) => [e.type, e.endpoint, e.domain]),
    ["/start", "/orders", "/start"].map((p) => ["page_view", p, "shop.example"]),
  );
  const pushed = history.pushState;
  await end();
  assert.notEqual(history.pushState, pushed, "the browser's own function is back");
});

test("a router's templates are pages too", async () => {
  function Page({ path, plan }) {
    usePageTracking(path, { plan });
    return null;
  }
  const go = async (address, path, plan) => (
    history.replaceState(null, "", address),
    await render(h(Page, { path, plan }))
  );
  await go("/orders/1", "/orders/:id", "a");
  await go("/orders/1", "/orders/:id", "b");
  await go("/orders/2", "/orders/:id", "c");
  await go("/cart", "/cart", "d");
  await render(null);
  await go("/cart", "/cart", "e");
  const events = await arrived();
  assert.deepEqual(
    events.map((e) => [e.endpoint, e.properties.plan]),
    [
      ["/orders/:id", "a"],
      ["/orders/:id", "c"],
      ["/cart", "d"],
    ],
  );
  await end();
});

test("without a provider nothing is recorded and nothing breaks", async (t) => {
  const warned = t.mock.method(console, "warn", () => {});
  let got;
  function Lone() {
    got = useAnalytics();
    usePageTracking();
    return null;
  }
  await act(async () => root.render(h(Lone)));
  assert.equal(got.track("a"), undefined);
  assert.equal(await got.flush(), true);
  assert.equal(warned.mock.callCount() > 0, true);
  assert.deepEqual(await arrived(), []);
  await end();
});
