// Whatever the way does to requests and answers, each event arrives, and counts once by its id.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createClient } from "../dist/index.js";
import { openService, openStorage, seeded, sleep } from "./service.mjs";

const FAST = { token: "t", flushInterval: 5, retryDelay: 4, timeout: 80 };
const MISHAPS =
  "unheard committed_then_cut half_answer late never portal other_json busy committed_then_503 slow_down too_slow broken full".split(
    " ",
  );

for (let seed = 1; seed <= 6; seed++) {
  test(`any mishaps, seed ${seed}`, async () => {
    const random = seeded(seed);
    const share = random.next() * 0.7;
    const mishap = () => (random.next() < share ? random.pick(MISHAPS) : "fine");
    const service = await openService({ mishap, most: random.pick([3, 17, 1000]) });
    const storage = random.next() < 0.5 ? openStorage({ limit: random.pick([2_000, 1e6]) }) : null;
    const dropped = [];
    const clients = Array.from({ length: 1 + random.below(3) }, () =>
      createClient({
        url: service.url,
        ...FAST,
        storage,
        batchSize: 1 + random.below(40),
        maxQueue: 5_000,
        onDrop: (d) => dropped.push(d),
      }),
    );
    const sent = new Set();
    for (let n = 0; n < 200; n++) {
      const properties = {
        n,
        text: "x".repeat(random.below(400)),
        odd: random.pick(["\u0000", "\ud83d", "é😀", "\\ud800"]),
      };
      sent.add(random.pick(clients).track(random.pick(["click", "page_view"]), properties));
      if (random.next() < 0.1) await sleep(random.below(10));
    }
    assert.deepEqual(
      await Promise.all(clients.map((client) => client.flush(25_000))),
      clients.map(() => true),
    );
    assert.deepEqual(dropped, []);
    assert.equal(sent.size, 200);
    assert.deepEqual(new Set(service.events.keys()), sent);
    assert.deepEqual(service.faults, []);
    await Promise.all(clients.map((client) => client.close()));
    assert.equal(storage?.length ?? 0, 0, "what is confirmed is deleted");
    await service.close();
  });
}

test("tabs that die at any moment leave their events to the next one", async () => {
  const random = seeded(99);
  const service = await openService({ mishap: () => (random.next() < 0.4 ? random.pick(MISHAPS) : "fine") });
  const storage = openStorage();
  const sent = new Set();
  for (let life = 0; life < 12; life++) {
    let dead = false;
    // A dead tab's answers reach nobody: its fetch never returns, and its writes to the storage stop.
    const gone = {
      ...openStorage(),
      get length() {
        return storage.length;
      },
      key: storage.key,
    };
    for (const name of ["getItem", "setItem", "removeItem"]) gone[name] = (...a) => (dead ? null : storage[name](...a));
    const client = createClient({
      url: service.url,
      ...FAST,
      storage: gone,
      fetch: (...a) => (dead ? new Promise(() => {}) : fetch(...a)),
    });
    for (let n = random.below(30); n >= 0; n--) sent.add(client.track("click", { life, n }));
    await sleep(random.below(25));
    dead = true;
  }
  const last = createClient({ url: service.url, ...FAST, storage });
  await sleep(5);
  assert.equal(await last.flush(20_000), true);
  assert.deepEqual(new Set(service.events.keys()), sent);
  assert.equal(storage.length, 0);
  await last.close();
  await service.close();
});

test("a service that stays away costs nothing but time", async () => {
  const service = await openService({ mishap: () => "unheard" });
  const client = createClient({ url: service.url, ...FAST });
  client.track("click");
  assert.equal(await client.flush(60), false);
  service.mishap = () => "fine";
  assert.equal(await client.flush(5_000), true);
  assert.equal(service.events.size, 1);
  await client.close();
  await service.close();
});
