// A Node program that just ends: what it tracked goes out, and a service that is down does not keep it alive.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { test } from "node:test";
import { promisify } from "node:util";
import { openService } from "./service.mjs";

const bundle = new URL("../dist/index.js", import.meta.url).href;
const program = (url) => `
  const { createClient } = await import(${JSON.stringify(bundle)});
  const client = createClient({ url: ${JSON.stringify(url)}, token: "t", flushInterval: 50, retryDelay: 60_000 });
  client.track("job", { done: true });
`;
const run = (url) =>
  promisify(execFile)(process.execPath, ["--input-type=module", "-e", program(url)], { timeout: 20_000 });

test("what a program tracked goes out although it ends without a word", async () => {
  const service = await openService();
  await run(service.url);
  assert.equal(service.events.size, 1);
  assert.deepEqual(service.faults, []);
  await service.close();
});

test("a program ends although the service is down", async () => {
  const began = Date.now();
  const { stderr } = await run("http://127.0.0.1:1");
  assert.ok(Date.now() - began < 15_000);
  assert.equal(stderr, "");
});
