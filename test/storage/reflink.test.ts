/** The backend `reflink` on this host: an XFS in a file of a temporary directory. Needs root. */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ReflinkBackend } from "../../packages/capsuled/src/storage/pool/reflink.ts";
import { unmount } from "../../packages/capsuled/src/storage/tools/mount.ts";
import { conformance } from "./conformance.ts";

const dir = mkdtempSync(join(tmpdir(), "capsule-reflink-"));
const [file, mountPath, scratch] = ["pools/t.img", "pool", "mnt"].map((name) => join(dir, name)) as [
  string,
  string,
  string,
];
mkdirSync(scratch);

conformance("reflink", {
  scratch,
  open: async () => {
    const backend = new ReflinkBackend({ pool: "t", file, mountPath, sizeBytes: 2 * 1024 ** 3 });
    await backend.open(true);
    return backend;
  },
  close: async () => {
    await unmount(mountPath);
    rmSync(dir, { recursive: true });
  },
});
