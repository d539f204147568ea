// Builds dist/index.js, one minified ES module that imports React and nothing else, and the application of the tests.
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

// React's development build, as only that renders and mounts twice in strict mode.
await build({
  entryPoints: ["test/app.jsx"],
  outfile: "build/app.js",
  bundle: true,
  format: "esm",
  target: ["es2020"],
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"development"' },
  logLevel: "error",
});
