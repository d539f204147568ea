// Fails when the minified bundle, gzipped, is larger than what a page should pay for it.
import { readFileSync } from "node:fs";
import { gzipSync } from "node:zlib";

const LIMIT = 4096;
const bundle = readFileSync(new URL("../dist/index.js", import.meta.url));
if (/^\s*import\b|\bfrom\s*"/m.test(bundle.toString())) {
  console.error("dist/index.js imports something: the bundle must stand alone");
  process.exit(1);
}
const size = gzipSync(bundle, { level: 9 }).length;
console.log(`dist/index.js: ${bundle.length} bytes, ${size} gzipped, limit ${LIMIT}`);
if (size > LIMIT) {
  console.error(`${size - LIMIT} bytes too many`);
  process.exit(1);
}
