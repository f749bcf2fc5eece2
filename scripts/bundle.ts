// Bundles capsuled and capsulectl into one file each, under build/bundle. Run by `npm run bundle`.

import { writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { build, type Plugin } from "esbuild";

const root = join(import.meta.dirname, "..");

const common = {
  bundle: true,
  platform: "node",
  target: "node24",
  minifySyntax: true,
  legalComments: "none",
  logLevel: "warning",
} as const;

/** What is seldom used and brings a library is a file of its own beside the program: keys are made once, capsules found seldom. */
const apart: Plugin = {
  name: "apart",
  setup: (bundle) => {
    bundle.onResolve({ filter: /\/(certificate|browse)\.ts$/ }, ({ path, kind }) =>
      kind === "entry-point" ? undefined : { path: `./capsulectl-${basename(path, ".ts")}.cjs`, external: true },
    );
  },
};

const [{ metafile }] = await Promise.all([
  build({
    ...common,
    // What is in it, for the bill of materials (image/sbom.ts).
    metafile: true,
    format: "esm",
    // Packages written for CommonJS call require() of Node's own modules.
    banner: {
      js: 'import { createRequire as __createRequire } from "node:module";const require = __createRequire(import.meta.url);',
    },
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
    // An import of one of Node's own modules makes each of its parts, also those that Node itself loads lazily, such as all
    // of fetch; require() does not. Measured on `workload list`: 13 % of the whole program's processor time.
    format: "cjs",
    entryPoints: {
      capsulectl: join(root, "packages/capsulectl/src/main.ts"),
      "capsulectl-certificate": join(root, "packages/capsulectl/src/certificate.ts"),
      "capsulectl-browse": join(root, "packages/capsulectl/src/discovery/browse.ts"),
    },
    outdir: join(root, "build/bundle"),
    outExtension: { ".js": ".cjs" },
    plugins: [apart],
    minifyWhitespace: true,
  }),
]);

await writeFile(join(root, "build/bundle/capsuled.meta.json"), JSON.stringify({ inputs: metafile.inputs }));
