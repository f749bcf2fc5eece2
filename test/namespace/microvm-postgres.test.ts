/** PostgreSQL in a microVM, with its data on a volume; as a container it has the same data. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { writeImage } from "../images/image.ts";
import { postgresImage } from "../images/postgres.ts";
import { workloadOf } from "../support/machines.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("vmpg", []);
  const image = join(capsule.dir, "postgres.tar");
  await writeImage(await postgresImage(), image);
  await capsule.ctl(["image", "push", image]);
});
after(async () => await capsule?.stop());

const server = [
  "mkdir -p /data/db /tmp && chown postgres /data/db && chmod 1777 /tmp",
  "[ -e /data/db/PG_VERSION ] || su postgres -s /bin/sh -c 'initdb -D /data/db -A trust --no-locale -E UTF8'",
  `exec su postgres -s /bin/sh -c "exec postgres -D /data/db -k /tmp -h '*' -c hba_file=/data/hba"`,
].join("\n");
const database = (kind: "MicroVM" | "Container"): string =>
  workloadOf(
    kind,
    "db",
    "postgres:17",
    `  command: [sh, -c, ${JSON.stringify(`echo 'host all all all trust' >/data/hba\n${server}`)}]\n  stopSignal: SIGINT\n  stopTimeout: 60s\n  ports: [{containerPort: 5432}]\n  mounts: [{volumeName: data, mountPath: /data}]${kind === "MicroVM" ? "\n  memoryMib: 512" : ""}`,
  );
const client = workloadOf(
  "Container",
  "client",
  "postgres:17",
  "  command: [sleep, 1d]\n  networkMode: HOST\n  stopTimeout: 0s",
);

async function applied(manifest: string): Promise<void> {
  const { code, stderr } = await capsule.apply(manifest, "--wait=180s");
  assert.equal(code, 0, stderr);
}

/** By the mapped port of the capsule. The first answer takes as long as the cluster's making, emulated. */
async function query(sql: string): Promise<string> {
  const psql = ["psql", "-h", "127.0.0.1", "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-qAtc", sql];
  const deadline = Date.now() + 400_000;
  for (;;) {
    const { code, stdout, stderr } = await capsule.try(["workload", "exec", "client", "--", ...psql]);
    if (code === 0) return stdout.trim();
    const starts = /could not connect|Connection refused|No route to host|starting up|closed the connection/i.test(
      stderr,
    );
    if (!starts || Date.now() > deadline)
      assert.fail(`${stderr}\n${(await capsule.try(["workload", "logs", "db", "-n", "20"])).stderr}`);
  }
}

test("PostgreSQL in a microVM answers by a mapped port, and as a container it has the same rows", {
  timeout: 900_000,
}, async () => {
  await applied(`kind: Volume\nname: data\nsize: 512MiB\n---\n${client}---\n${database("MicroVM")}`);
  assert.match(await query("select version()"), /^PostgreSQL 17/);
  await query("create table t as select n, md5(n::text) as hash from generate_series(1, 1000) n");
  const sum = "select count(*), md5(string_agg(hash, '' order by n)) from t";
  const rows = await query(sum);
  assert.match(rows, /^1000\|/);
  assert.match(await capsule.ctl(["workload", "exec", "db", "--", "uname", "-r"]), /cloud/);

  await applied(database("Container"));
  assert.equal(await query(sum), rows);
  assert.doesNotMatch(await capsule.ctl(["workload", "exec", "db", "--", "uname", "-r"]), /cloud/);
  await query("insert into t values (1001, 'of a container')");

  await applied(database("MicroVM"));
  assert.equal(await query("select hash from t where n = 1001"), "of a container");
  // It was shut down in order each time: by its own word it had nothing to recover.
  const logs = await capsule.ctl(["workload", "logs", "db"]);
  assert.doesNotMatch(logs, /not properly shut down/);
});
