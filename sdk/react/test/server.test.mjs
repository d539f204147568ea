// On a server, without a document: rendering works and records nothing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createElement as h } from "react";
import { renderToString } from "react-dom/server";
import { createClient } from "@gnomon-analytics/js";
import { openService } from "../../js/test/service.mjs";
import { AnalyticsProvider, PageTracking, useAnalytics } from "../dist/index.js";

test("a server renders the tree", async () => {
  const service = await openService();
  const client = createClient({ url: service.url, key: "wk", trackPages: true });
  const Shown = () => h("p", null, typeof useAnalytics().track);
  const html = renderToString(
    h(AnalyticsProvider, { client }, h(PageTracking), h(PageTracking, { path: "/x" }), h(Shown)),
  );
  assert.equal(html, "<p>function</p>");
  assert.equal(await client.close(), true);
  assert.equal(service.requests.length, 0);
  await service.close();
});
