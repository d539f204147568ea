// The tables of the README are the types: every option and function has its line, and no line is of another one.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

const read = (name) => readFileSync(new URL(name, import.meta.url), "utf8");
const readme = read("../README.md");
const types = read("../src/types.ts").replace(/\/\*\*[\s\S]*?\*\//g, "");

const members = (name) =>
  [...new RegExp(`interface ${name} [^{]*{([\\s\\S]*?)\\n}`).exec(types)[1].matchAll(/^  (\w+)[?(:]/gm)].map(
    (m) => m[1],
  );
const section = (title) => readme.split(`## ${title}\n`)[1].split("\n## ")[0];
const firstCells = (text) =>
  [...text.matchAll(/^\|([^|]*)\|/gm)].flatMap(([, cell]) => [...cell.matchAll(/`(\w+)/g)].map((m) => m[1]));

test("options", () => assert.deepEqual(firstCells(section("Options")).sort(), members("Options").sort()));
test("functions", () => assert.deepEqual(firstCells(section("Functions")).sort(), members("Client").sort()));

test("defaults", () => {
  const source = read("../src/delivery.ts") + read("../src/index.ts");
  for (const [name, shown] of [
    ["timeout", "30,000"],
    ["retryDelay", "1,000"],
    ["flushInterval", "3,000"],
  ]) {
    assert.ok(source.includes(`${name} = ${shown.replace(",", "_")}`), name);
    assert.match(section("Options"), new RegExp(`\`${name}\`[^|]*\\|[^|]*${shown}`));
  }
  for (const [name, shown] of [
    ["batchSize", "50"],
    ["maxQueue", "1,000"],
  ]) {
    assert.ok(source.includes(`options.${name} ?? ${shown.replace(",", "_")}`), name);
    assert.match(section("Options"), new RegExp(`\`${name}\`[^|]*\\| ${shown}`));
  }
});
