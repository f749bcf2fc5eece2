// Bundles capsuled and capsulectl into one file each (capsulectl: with its lazily loaded parts beside it), under
// build/bundle. Run by `npm run bundle`.

import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { build } from "esbuild";

const root = join(import.meta.dirname, "..");

const common = {
  bundle: true,
  platform: "node",
  target: "node24",
  format: "esm",
  minifySyntax: true,
  legalComments: "none",
  logLevel: "warning",
  // Packages written for CommonJS call require() of Node's own modules.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module";const require = __createRequire(import.meta.url);',
  },
} as const;

const [{ metafile }] = await Promise.all([
  build({
    ...common,
    // What is in it, for the bill of materials (image/sbom.ts).
    metafile: true,
    entryPoints: {
      capsuled: join(root, "packages/capsuled/src/main.ts"),
      storage: join(root, "packages/capsuled/src/storage/substrate/main.ts"),
    },
    outdir: join(root, "build/bundle"),
    outExtension: { ".js": ".mjs" },
    sourcemap: true,
  }),
  build({
    ...common,
    entryPoints: { capsulectl: join(root, "packages/capsulectl/src/main.ts") },
    outdir: join(root, "build/bundle"),
    outExtension: { ".js": ".mjs" },
    splitting: true,
    chunkNames: "capsulectl-[name]-[hash]",
    minifyWhitespace: true,
  }),
]);

await writeFile(join(root, "build/bundle/capsuled.meta.json"), JSON.stringify({ inputs: metafile.inputs }));
