/**
 * A workload that writes to two SQLite databases on its volume, one with a write-ahead log and one with a rollback journal,
 * and says each number only when the commit that holds it was flushed.
 */
import assert from "node:assert/strict";
import { DatabaseSync } from "node:sqlite";
import type { TestCapsule } from "./test-capsule.ts";

export const databases = ["wal.db", "delete.db"] as const;

// The numbers come one at a time: sqlite3 says what it has done when it has read the next line.
const script = databases
  .map((file) => {
    const mode = file.replace(".db", "");
    // Without EXTRA the removal of a rollback journal, which is the commit, is not flushed (sqlite.org/pragma.html).
    const db = `sqlite3 -bail -cmd '.timeout 60000' -cmd 'pragma synchronous=extra' /data/${file}`;
    const setUp = `pragma journal_mode=${mode}; create table if not exists t (n integer primary key, pad blob); create index if not exists i on t (pad);`;
    const numbers = `while :; do n=$((n+1)); echo "insert into t values ($n, randomblob(300)); select '${mode}', $n;"; done`;
    return `${db} "${setUp}" && { n=$(${db} "select coalesce(max(n), 0) from t"); ${numbers} | ${db} & }`;
  })
  .join("\n");

export const databaseManifest = (name: string, volume: string): string => `kind: Container
name: ${name}
container:
  image: sqlite:1
  stopTimeout: 0s
  command:
    - sh
    - -c
    - |
      ${script.replaceAll("\n", "\n      ")}
      wait
  mounts: [{volumeName: ${volume}, mountPath: /data}]
`;

/** The last number of each database that the workload said to be there. */
export async function committed(capsule: TestCapsule, name: string): Promise<Record<string, number>> {
  const lines = (await capsule.ctl(["workload", "logs", name, "-n", "400"])).split("\n");
  const last: Record<string, number> = {};
  for (const line of lines) {
    const [mode, n] = line.split("|");
    if (databases.includes(`${mode}.db` as (typeof databases)[number])) last[`${mode}.db`] = Number(n);
  }
  return last;
}

/** As `checkDatabase`, by the database's own program in a workload that has the volume; another may write to it. */
export async function checkInWorkload(
  capsule: TestCapsule,
  workload: string,
  said: Readonly<Record<string, number>>,
  what: string,
): Promise<void> {
  for (const file of databases) {
    const query = ".timeout 60000\npragma integrity_check;\nselect max(n), count(*) from t;\n";
    const text = await capsule.ctl(["workload", "exec", "-i", workload, "--", "sqlite3", `/data/${file}`], query);
    const [state, numbers = ""] = text.trim().split("\n");
    assert.equal(state, "ok", `${what}, ${file}: ${text}`);
    const [last = Number.NaN, count] = numbers.split("|").map(Number);
    assertNumbers(last, count, said[file] ?? 0, `${what}, ${file}`);
  }
}

/** The same of a volume that nobody uses; it is deleted afterwards. */
export async function checkVolume(
  capsule: TestCapsule,
  volume: string,
  said: Readonly<Record<string, number>>,
): Promise<void> {
  const manifest = `kind: Container\nname: reader\ncontainer:\n  image: sqlite:1\n  command: [sleep, 1d]\n  stopTimeout: 0s\n  mounts: [{volumeName: ${volume}, mountPath: /data}]\n`;
  const { code, stderr } = await capsule.apply(manifest, "--wait=120s");
  assert.equal(code, 0, stderr);
  await checkInWorkload(capsule, "reader", said, volume);
  await capsule.ctl(["workload", "delete", "reader"]);
  await capsule.ctl(["volume", "delete", volume]);
}

/** Throws when the database is damaged, or does not hold every number up to the one that was said. */
export function checkDatabase(path: string, least: number, what: string): number {
  const db = new DatabaseSync(path);
  try {
    assert.deepEqual(
      db
        .prepare("pragma integrity_check")
        .all()
        .map((row) => row["integrity_check"]),
      ["ok"],
      what,
    );
    const { n, count } = db.prepare("select coalesce(max(n), 0) as n, count(*) as count from t").get() ?? {};
    assertNumbers(Number(n), Number(count), least, what);
    return Number(n);
  } finally {
    db.close();
  }
}

function assertNumbers(last: number, count: number | undefined, least: number, what: string): void {
  assert.equal(last, count, `${what}: no number is left out`);
  assert.ok(last >= least, `${what}: ${least} was committed, and it ends with ${last}`);
}
