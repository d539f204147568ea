// Builds dist/index.js: one minified ES module that imports React and nothing else.
import { build } from "esbuild";

await build({
  entryPoints: ["src/index.tsx"],
  outfile: "dist/index.js",
  bundle: true,
  minify: true,
  format: "esm",
  target: ["es2020"],
  jsx: "automatic",
  packages: "external",
  // Server rendering frameworks need to know that this runs with hooks.
  banner: { js: '"use client";' },
  legalComments: "none",
});
