// What becomes of a call: the event on the wire, or a reason why there is none. Nothing throws.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../dist/index.js";
import { openService, openStorage, sleep } from "./service.mjs";

const UUID7 = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

async function setUp(options = {}) {
  const service = await openService();
  const dropped = [];
  const client = createClient({
    url: `${service.url}/`,
    token: "t",
    flushInterval: 5,
    onDrop: (d) => dropped.push(d),
    ...options,
  });
  return { service, client, dropped, end: async () => (await client.close(50), await service.close()) };
}

test("an event has the fields of the contract and nothing else", async () => {
  const { service, client, end } = await setUp({ source: "api", application: "shop" });
  const before = Date.now();
  client.identify("u1");
  const id = client.track("order", { amount: 19.9 }, { session_id: "s1", status_code: 201 });
  client.identify(null);
  client.page({ plan: "pro" }, { id: "own", ts: new Date(0), endpoint: "/a" });
  await client.flush();
  const [order, page] = service.events.values();
  assert.match(id, UUID7);
  assert.ok(parseInt(id.replace("-", "").slice(0, 12), 16) >= before);
  assert.deepEqual(order, {
    id,
    ts: order.ts,
    type: "order",
    source: "api",
    application: "shop",
    user_id: "u1",
    session_id: "s1",
    status_code: 201,
    properties: { amount: 19.9 },
    seen: 1,
  });
  assert.deepEqual(page, {
    id: "own",
    ts: "1970-01-01T00:00:00.000Z",
    type: "page_view",
    source: "api",
    application: "shop",
    user_id: null,
    endpoint: "/a",
    properties: { plan: "pro" },
    seen: 1,
  });
  assert.deepEqual(service.faults, []);
  await end();
});

test("ids are unique and sort by time", () => {
  const client = createClient({ url: "http://127.0.0.1:1", storage: null, maxQueue: 20_000 });
  const ids = Array.from({ length: 10_000 }, () => client.track("a"));
  assert.equal(new Set(ids).size, 10_000);
  assert.ok(ids.every((id) => UUID7.test(id)));
  assert.deepEqual(
    ids.map((id) => id.slice(0, 13)),
    ids.map((id) => id.slice(0, 13)).sort(),
  );
  void client.close(1);
});

test("text that the service cannot take is mended, other text is left as it is", async () => {
  const { service, client, end } = await setUp();
  client.track("a", { cut: "a\ud83d", nul: "a\u0000b", whole: "😀 é \\ud83d \\u0000 \\\\ \n", "k\udc00": 1 });
  await client.flush();
  const [event] = service.events.values();
  assert.deepEqual(event.properties, {
    cut: "a\ufffd",
    nul: "a\ufffdb",
    whole: "😀 é \\ud83d \\u0000 \\\\ \n",
    "k\ufffd": 1,
  });
  await end();
});

test("what cannot be sent is reported at once", async () => {
  const { service, client, dropped, end } = await setUp({ maxQueue: 2, flushInterval: 1_000 });
  const circle = {};
  circle.self = circle;
  assert.equal(client.track("circle", circle), undefined);
  assert.equal(client.track("big", { n: 1n }), undefined);
  assert.equal(client.track("long", { text: "é".repeat(17_000) }), undefined);
  client.track("a");
  client.track("b");
  assert.equal(client.track("c"), undefined);
  assert.deepEqual(
    dropped.map((d) => [d.event.type, d.code, d.status]),
    [
      ["circle", "not-json", 0],
      ["big", "not-json", 0],
      ["long", "too-large", 0],
      ["c", "queue-full", 0],
    ],
  );
  await client.close();
  assert.equal(service.events.size, 2);
  assert.equal(client.track("d"), undefined);
  assert.equal(dropped[4].code, "closed");
  await end();
});

test("a callback that throws, a getter that throws, a symbol: the page goes on", async () => {
  const { service, client, end } = await setUp({
    onDrop: () => {
      throw new Error("page's own fault");
    },
  });
  client.track("a", {
    get x() {
      throw new Error("no");
    },
  });
  client.track(Symbol("s"));
  client.track("b", { s: Symbol("s"), f() {} });
  client.identify(undefined);
  assert.equal(await client.flush(), true);
  assert.deepEqual(
    [...service.events.values()].filter((e) => e.type === "b").map((e) => e.properties),
    [{}],
  );
  await end();
});

test("what is left at close in memory only is reported, what is stored is not", async () => {
  for (const storage of [null, openStorage()]) {
    const dropped = [];
    const client = createClient({
      url: "http://127.0.0.1:1",
      token: "t",
      storage,
      retryDelay: 5,
      onDrop: (d) => dropped.push(d.code),
    });
    client.track("a");
    assert.equal(await client.close(60), false);
    assert.deepEqual(dropped, storage ? [] : ["closed"]);
    assert.equal(storage?.length ?? 0, storage ? 1 : 0);
  }
});

test("a storage that is full or throws is done without", async () => {
  const broken = {
    length: 0,
    key: () => null,
    getItem() {
      throw new Error();
    },
    setItem() {
      throw new Error();
    },
    removeItem() {
      throw new Error();
    },
  };
  for (const storage of [broken, openStorage({ limit: 900 }), null, {}]) {
    const { service, client, end } = await setUp({ storage });
    for (let n = 0; n < 20; n++) client.track("a", { n });
    assert.equal(await client.flush(), true);
    assert.equal(service.events.size, 20);
    await end();
  }
});

test("clients with other keys leave each other's events alone", async () => {
  const storage = openStorage();
  const away = createClient({ url: "http://127.0.0.1:1", key: "one", storage });
  away.track("a");
  await away.close(5);
  const { service, client, end } = await setUp({ token: undefined, key: "two", storage });
  client.track("b");
  await client.flush();
  assert.deepEqual(
    [...service.events.values()].map((e) => e.type),
    ["b"],
  );
  assert.equal(storage.length, 1);
  await end();
});

test("before consent nothing is stored or sent; a refusal deletes what was", async () => {
  const storage = openStorage();
  const { service, client, dropped, end } = await setUp({ storage, consent: "required", flushInterval: 1_000 });
  assert.equal(client.track("early"), undefined);
  assert.equal(await client.flush(), true);
  assert.deepEqual([storage.length, service.requests.length, client.allowed()], [0, 0, false]);
  client.optIn();
  client.track("with consent");
  assert.equal(await client.flush(), true);
  assert.deepEqual(
    [...service.events.values()].map((e) => e.type),
    ["with consent"],
  );
  client.track("taken back");
  assert.equal([...storage.map.keys()].filter((key) => key.includes("queue")).length, 1);
  client.optOut();
  client.track("late");
  assert.equal(await client.flush(), true);
  assert.deepEqual([...storage.map.values()], ["no"], "the refusal is all that is kept");
  assert.deepEqual([service.events.size, dropped.length], [1, 0]);
  await end();
});

test("a refusal in another tab holds in this one", async () => {
  const storage = openStorage();
  const { service, client, end } = await setUp({ storage, flushInterval: 1_000 });
  const other = createClient({ url: `${service.url}/`, token: "t", storage });
  client.track("a");
  other.optOut();
  assert.equal(await client.flush(), true);
  assert.deepEqual([service.events.size, client.allowed()], [0, false]);
  await other.close();
  await end();
});

function as(navigator, action) {
  const real = Object.getOwnPropertyDescriptor(globalThis, "navigator");
  Object.defineProperty(globalThis, "navigator", { value: navigator, configurable: true });
  try {
    return action();
  } finally {
    if (real) Object.defineProperty(globalThis, "navigator", real);
    else delete globalThis.navigator;
  }
}

test("signals of privacy, crawlers, automation", () => {
  const chrome =
    "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36";
  const open = (navigator, options) =>
    as({ userAgent: chrome, ...navigator }, () => {
      const client = createClient({ url: "http://127.0.0.1:1", storage: openStorage(), ...options });
      return [client.allowed(), (client.optIn(), client.allowed())];
    });
  assert.deepEqual(open({}), [true, true]);
  assert.deepEqual(open({ doNotTrack: "1" }), [false, true], "a choice made here overrules a general one");
  assert.deepEqual(open({ doNotTrack: "1" }, { respectPrivacySignals: false }), [true, true]);
  assert.deepEqual(open({ doNotTrack: "unspecified" }), [true, true]);
  assert.deepEqual(open({ globalPrivacyControl: true }), [false, true]);
  assert.deepEqual(open({ webdriver: true }), [true, true]);
  assert.deepEqual(open({ webdriver: true }, { excludeWebdriver: true }), [false, false]);
  for (const bot of [
    "Googlebot/2.1 (+http://www.google.com/bot.html)",
    "bingbot",
    "Mozilla/5.0 AhrefsBot/7.0",
    "Chrome-Lighthouse",
  ]) {
    assert.deepEqual(open({ userAgent: bot }), [false, false], bot);
    assert.deepEqual(open({ userAgent: bot }, { excludeBots: false }), [true, true], bot);
  }
  assert.deepEqual(
    open({ userAgent: "Mozilla/5.0 (Linux; Android 10; CUBOT_X30) Mobile" }),
    [true, true],
    "a telephone",
  );
});

function left(storage, count) {
  for (let n = 0; n < count; n++) {
    const id = `dead-${n}`;
    storage.setItem(`gnomon:shop:queue:tab:${id}`, JSON.stringify({ id, ts: "2026-01-01T00:00:00Z", type: "left" }));
  }
}

test("what others left is taken over up to the bound of the queue", async () => {
  const storage = openStorage();
  left(storage, 30);
  const { service, client, end } = await setUp({ storage, name: "shop", maxQueue: 10 });
  await sleep(10);
  assert.equal(await client.flush(), true);
  assert.deepEqual([service.events.size, storage.length], [10, 20]);
  await end();
});

test("what was taken over is not taken over again while it waits", async () => {
  const storage = openStorage();
  left(storage, 5);
  const { service, client, end } = await setUp({ storage, name: "shop", retryDelay: 20 });
  service.mishap = () => "unheard";
  for (let n = 0; n < 5; n++) {
    client.optIn();
    client.track("own");
    await sleep(5);
  }
  service.mishap = () => "fine";
  assert.equal(await client.flush(), true);
  assert.equal(service.events.size, 10);
  assert.deepEqual(service.faults, []);
  await end();
});
