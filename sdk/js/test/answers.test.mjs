// What each answer of the service means for a batch.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../dist/index.js";
import { openService, openStorage, sleep } from "./service.mjs";

async function setUp(service, options = {}) {
  const opened = await openService(service);
  const dropped = [];
  const client = createClient({
    url: opened.url,
    token: "t",
    flushInterval: 5,
    retryDelay: 5,
    onDrop: (d) => dropped.push(d),
    ...options,
  });
  return { service: opened, client, dropped, end: async () => (await client.close(50), await opened.close()) };
}

test("a refusal by the service is reported and not repeated", async () => {
  for (const status of [401, 403, 404, 415, 422]) {
    const { service, client, dropped, end } = await setUp({
      mishap: () => ({ status, body: { type: "no-way", status } }),
    });
    client.track("a");
    assert.equal(await client.flush(2_000), true);
    assert.deepEqual(
      dropped.map((d) => [d.code, d.status, d.event.type]),
      [["no-way", status, "a"]],
    );
    assert.equal(service.requests.length, 1);
    await end();
  }
});

test("a refusal without a readable reason has the status as its code", async () => {
  const { client, dropped, end } = await setUp({ mishap: () => ({ status: 404, body: "<h1>not here</h1>" }) });
  client.track("a");
  await client.flush(2_000);
  assert.deepEqual(
    dropped.map((d) => d.code),
    ["http-404"],
  );
  await end();
});

test("a token function is asked again after a 401, once", async () => {
  let asked = 0;
  const token = async () => `t${++asked}`;
  const fresh = (entry) => (entry.headers.authorization === "Bearer t1" ? { status: 401 } : "fine");
  const { service, client, dropped, end } = await setUp({ mishap: fresh }, { token });
  client.track("a");
  assert.equal(await client.flush(2_000), true);
  assert.deepEqual([service.events.size, asked, dropped.length], [1, 2, 0]);
  service.mishap = () => ({ status: 401 });
  client.track("b");
  assert.equal(await client.flush(2_000), true);
  assert.deepEqual([service.requests.length, dropped.length], [4, 1]);
  await end();
});

test("a token that cannot be had is asked for again", async () => {
  let asked = 0;
  const token = () => (++asked < 3 ? Promise.reject(new Error("offline")) : "t");
  const { service, client, end } = await setUp({}, { token });
  client.track("a");
  assert.equal(await client.flush(2_000), true);
  assert.equal(service.events.size, 1);
  await end();
});

test("a write key travels as a bearer", async () => {
  const { service, client, end } = await setUp({}, { token: undefined, key: "wk_1" });
  client.track("a");
  await client.flush(2_000);
  assert.equal(service.requests[0].headers.authorization, "Bearer wk_1");
  await end();
});

for (const [name, value] of [
  ["seconds", () => "1"],
  ["a date", () => new Date(Date.now() + 2_000).toUTCString()],
]) {
  test(`Retry-After in ${name} is honoured, by flush() too`, async () => {
    let first = true;
    const busy = () => (first ? ((first = false), { status: 429, headers: { "retry-after": value() } }) : "fine");
    const { service, client, end } = await setUp({ mishap: busy });
    client.track("a");
    await client.flush(20);
    client.track("b");
    assert.equal(await client.flush(5_000), true);
    const wait = service.requests[1].at - service.requests[0].at;
    assert.ok(wait >= 990, `${wait} ms`);
    assert.deepEqual([service.requests.length, service.events.size], [2, 2]);
    await end();
  });
}

test("waits grow, and differ between clients", async () => {
  const { service, client, end } = await setUp({ mishap: () => "broken" }, { retryDelay: 20 });
  client.track("a");
  await client.flush(700);
  const at = service.requests.map((r) => r.at);
  const waits = at.slice(1).map((t, n) => t - at[n]);
  assert.ok(waits.length >= 3 && waits.length <= 7, String(waits));
  assert.ok(waits[3] > waits[0], String(waits));
  await end();
});

test("413 halves the batch, down to the one event that is too large", async () => {
  const heavy = (_, batch) =>
    batch.some((e) => e.properties?.heavy) ? { status: 413, body: { type: "too-large" } } : "fine";
  const { service, client, dropped, end } = await setUp({ mishap: heavy }, { batchSize: 1_000 });
  for (let n = 0; n < 40; n++) client.track("a", { n, heavy: n === 23 });
  assert.equal(await client.flush(5_000), true);
  assert.deepEqual(
    dropped.map((d) => [d.code, d.event.properties.n]),
    [["too-large", 23]],
  );
  assert.equal(service.events.size, 39);
  await end();
});

test("a smaller limit of the service is kept to", async () => {
  const { service, client, dropped, end } = await setUp({ most: 10 }, { batchSize: 64 });
  for (let n = 0; n < 200; n++) client.track("a", { n });
  assert.equal(await client.flush(5_000), true);
  assert.deepEqual([service.events.size, dropped.length], [200, 0]);
  assert.equal(service.requests.filter((r) => r.size > 10).length, 3, "64, 32 and 16 were tried once each");
  await end();
});

test("one event that spoils its batch takes no other with it", async () => {
  for (const status of [400, 422]) {
    const spoilt = (_, batch) =>
      batch.some((e) => e.type === "bad") ? { status, body: { type: "too-deep" } } : "fine";
    const { service, client, dropped, end } = await setUp({ mishap: spoilt });
    for (let n = 0; n < 50; n++) client.track(n === 7 || n === 40 ? "bad" : "good");
    assert.equal(await client.flush(5_000), true);
    assert.deepEqual(
      dropped.map((d) => [d.code, d.status, d.event.type]),
      Array(2).fill(["too-deep", status, "bad"]),
    );
    assert.equal(service.events.size, 48);
    for (let n = 0; n < 50; n++) client.track("good");
    assert.equal(await client.flush(5_000), true);
    assert.equal(service.requests.at(-1).size, 50, "later batches are whole again");
    await end();
  }
});

test("events that the service rejects are reported with its codes", async () => {
  const { service, client, dropped, end } = await setUp({
    judge: (e) => (e.properties.n % 3 ? undefined : "bad-type"),
  });
  for (let n = 0; n < 9; n++) client.track("a", { n });
  assert.equal(await client.flush(2_000), true);
  assert.deepEqual(
    dropped.map((d) => [d.event.properties.n, d.code, d.status]),
    [0, 3, 6].map((n) => [n, "bad-type", 200]),
  );
  assert.equal(service.events.size, 6);
  client.track("a", { n: 12 });
  await client.flush(2_000);
  assert.deepEqual([dropped.length, dropped[3].status, service.requests.length], [4, 422, 2]);
  for (const n of [15, 18, 21]) client.track("a", { n });
  await client.flush(2_000);
  assert.deepEqual([dropped.length, service.requests.length], [7, 3], "a list leaves nothing to search for");
  await end();
});

test("batches go by count, by bytes and by time", async () => {
  const { service, client, end } = await setUp({}, { batchSize: 10, batchBytes: 5_000, flushInterval: 60 });
  for (let n = 0; n < 10; n++) client.track("a");
  await sleep(30);
  assert.deepEqual(
    service.requests.map((r) => r.size),
    [10],
    "a full batch does not wait",
  );
  client.track("a");
  await sleep(20);
  assert.equal(service.requests.length, 1);
  await sleep(90);
  assert.deepEqual(
    service.requests.map((r) => r.size),
    [10, 1],
    "the rest goes by time",
  );
  for (let n = 0; n < 9; n++) client.track("a", { text: "é".repeat(700) });
  await client.flush(2_000);
  assert.ok(service.requests.every((r) => r.bytes <= 5_000));
  assert.equal(service.events.size, 20);
  await end();
});

test("an answer of a strange form is no answer, and no hot loop", async () => {
  for (const body of ["null", "5", '"ok"', "[]", '{"ingested": "1"}', '{"ingested": 1, "rejected": [null]}']) {
    const { service, client, dropped, end } = await setUp(
      { mishap: () => ({ status: 200, body }) },
      { retryDelay: 30 },
    );
    client.track("a");
    assert.equal(await client.flush(100), false);
    assert.ok(service.requests.length <= 6, `${service.requests.length} requests after ${body}`);
    service.mishap = () => "fine";
    assert.equal(await client.flush(5_000), true);
    assert.deepEqual([service.events.size, dropped.length], [1, 0]);
    await end();
  }
});

test("a stored event that somebody broke goes alone", async () => {
  const storage = openStorage();
  storage.setItem("gnomon:shop:queue:gone:1", "{broken");
  storage.setItem("gnomon:shop:queue:gone:2", '{"id":"2","ts":"2026-01-01T00:00:00Z","type":"whole"}');
  const { service, client, end } = await setUp({}, { storage, name: "shop" });
  client.track("a");
  await sleep(20);
  assert.equal(await client.flush(5_000), true);
  assert.deepEqual([...service.events.values()].map((e) => e.type).sort(), ["a", "whole"]);
  await sleep(20);
  assert.equal(storage.length, 0);
  await end();
});

test("without a url it is the page's own origin", async () => {
  const asked = [];
  const answer = (url) => (asked.push(url), Promise.resolve(new Response('{"ingested":1,"rejected":[]}')));
  const client = createClient({ url: "", key: "k", fetch: answer });
  client.track("a");
  assert.equal(await client.flush(1_000), true);
  assert.deepEqual(asked, ["/api/analytics/ingest"]);
});

test("a request outlives its page if it may, and does without after a failure", async () => {
  const asked = [];
  const answers = [() => Promise.reject(new TypeError("no room")), () => new Response('{"ingested":1,"rejected":[]}')];
  const client = createClient({
    url: "",
    key: "k",
    retryDelay: 5,
    batchBytes: 1e6,
    batchSize: 1_000,
    flushInterval: 1_000,
    fetch: async (_, init) => (asked.push(init), answers[Math.min(asked.length - 1, 1)]()),
  });
  client.track("a");
  assert.equal(await client.flush(1_000), true);
  client.track("b");
  assert.equal(await client.flush(1_000), true);
  for (let n = 0; n < 100; n++) client.track("c", { text: "x".repeat(1_000) });
  assert.equal(await client.flush(1_000), true);
  assert.deepEqual(
    asked.map((init) => init.keepalive),
    [true, false, true, false],
    "the last one is too large for it",
  );
  assert.ok(asked.every((init) => init.credentials === "omit" && init.headers.Authorization === "Bearer k"));
});
