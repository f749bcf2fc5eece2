/** Runs inside a machine under test (test/qemu/lvm-thin.test.ts), as root, beside capsuled. */
import { mkdirSync } from "node:fs";
import { LvmThinBackend } from "../../packages/capsuled/src/storage/pool/lvm-thin.ts";
import { permPartition, readBootDisk } from "../../packages/capsuled/src/storage/substrate/disk.ts";
import { conformance } from "./conformance.ts";

const scratch = "/run/conformance";
mkdirSync(scratch, { recursive: true });

conformance("lvm-thin", {
  scratch,
  open: async () => {
    const backend = new LvmThinBackend(async () => (await permPartition(await readBootDisk())).device);
    await backend.open();
    return backend;
  },
  close: async () => undefined,
});
