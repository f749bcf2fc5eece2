/**
 * A client that knows nothing of this repository but the .proto files, or not even them: `buf curl`, with a certificate
 * made by openssl's format and a token signed here from its description in docs/architecture.md.
 */
import assert from "node:assert/strict";
import { createHash, createPrivateKey, randomBytes, sign, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { repositoryRoot } from "../../image/paths.ts";
import { CommandError, run } from "../../image/run.ts";
import { TestCapsule } from "../support/test-capsule.ts";

let capsule: TestCapsule;
before(async () => {
  capsule = await TestCapsule.start("proto", ["bare", "busybox"]);
});
after(async () => await capsule?.stop());

const encode = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url");

/** The token as documented: EdDSA, audience, subject, jti, a minute at most, bound to the certificate. */
function token(capsuleId: string): string {
  const key = createPrivateKey(readFileSync(join(capsule.configHome, "capsule/key.pem")));
  const certificate = new X509Certificate(readFileSync(join(capsule.configHome, "capsule/certificate.pem")));
  const spki = certificate.publicKey.export({ format: "der", type: "spki" });
  const iat = Math.floor(Date.now() / 1000);
  const signed = `${encode({ alg: "EdDSA" })}.${encode({
    aud: capsuleId,
    sub: createHash("sha256").update(spki).digest("hex").slice(0, 16),
    jti: randomBytes(12).toString("hex"),
    iat,
    exp: iat + 30,
    cnf: { "x5t#S256": createHash("sha256").update(certificate.raw).digest("base64url") },
  })}`;
  return `${signed}.${sign(null, Buffer.from(signed), key).toString("base64url")}`;
}

async function call(
  method: string,
  data: object,
  options: readonly string[],
  authorization?: string,
): Promise<unknown> {
  const config = join(capsule.configHome, "capsule");
  const output = await run([
    join(repositoryRoot, "node_modules/.bin/buf"),
    "curl",
    ...options,
    ...["--insecure", "--cert", join(config, "certificate.pem"), "--key", join(config, "key.pem")],
    ...(authorization === undefined ? [] : ["--header", `authorization: Bearer ${authorization}`]),
    ...["--data", JSON.stringify(data), `https://127.0.0.1:${capsule.host.port}/${method}`],
  ]);
  return JSON.parse(output);
}

const schema = ["--schema", join(repositoryRoot, "proto")];

for (const protocol of ["grpc", "grpcweb", "connect"]) {
  test(`apply and list by ${protocol}, from the .proto files alone`, async () => {
    const options = [...schema, "--protocol", protocol];
    const { capsuleId } = (await call("capsule.v1.IdentityService/GetIdentity", {}, options)) as { capsuleId: string };
    const resources = [{ workload: { name: `by-${protocol}`, container: { image: "bare:1", stopTimeout: "0s" } } }];
    const applied = await call("capsule.v1.WorkloadService/Apply", { resources }, options, token(capsuleId));
    assert.match(JSON.stringify(applied), /ACTION_CREATED/);
    await capsule.until(`by-${protocol}`, ({ status }) => status.phase === "PHASE_RUNNING", "running");
    const listed = await call("capsule.v1.WorkloadService/ListWorkloads", {}, options, token(capsuleId));
    assert.match(JSON.stringify(listed), new RegExp(`"by-${protocol}"`));
  });
}

for (const protocol of ["grpc", "grpcweb", "connect"]) {
  test(`logs by ${protocol}: lines in the form that the .proto describes`, async () => {
    const script = "echo one; echo two >&2; sleep 1d";
    const manifest = `kind: Container\nname: by-logs\ncontainer: {image: "busybox:1", command: [sh, -c, "${script}"], stopTimeout: 0s}\n`;
    assert.equal((await capsule.apply(manifest, "--wait=30s")).code, 0);
    const options = [...schema, "--protocol", protocol];
    const { capsuleId } = (await call("capsule.v1.IdentityService/GetIdentity", {}, options)) as { capsuleId: string };
    const text = async (request: object): Promise<string> => {
      const message = await call("capsule.v1.WorkloadService/Logs", request, options, token(capsuleId));
      return Buffer.from((message as { lines: string }).lines, "base64").toString();
    };
    const stamp = "\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{9}Z";
    await capsule.until("by-logs", () => true, "there");
    await sleep(300);
    const all = (await text({ name: "by-logs" })).split("\n").sort();
    assert.match(all.join("\n"), new RegExp(`^\n${stamp} stdout F one\n${stamp} stderr F two$`));
    const errors = await text({ name: "by-logs", streams: ["LOG_STREAM_STDERR"], tail: 1 });
    assert.match(errors, new RegExp(`^${stamp} stderr F two\n$`));
  });
}

test("a token serves once, and none is as good as nothing", async () => {
  const options = [...schema, "--protocol", "grpc"];
  const { capsuleId } = (await call("capsule.v1.IdentityService/GetIdentity", {}, options)) as { capsuleId: string };
  const used = token(capsuleId);
  await call("capsule.v1.WorkloadService/ListWorkloads", {}, options, used);
  const refused = (error: unknown): boolean => error instanceof CommandError && /used before/.test(error.stderr);
  await assert.rejects(call("capsule.v1.WorkloadService/ListWorkloads", {}, options, used), refused);
  await assert.rejects(call("capsule.v1.WorkloadService/ListWorkloads", {}, options), /token is needed/);
});

test("reflection tells the services to those who may ask", async () => {
  const { capsuleId } = (await call("capsule.v1.IdentityService/GetIdentity", {}, [
    ...schema,
    "--protocol",
    "grpc",
  ])) as {
    capsuleId: string;
  };
  // One token for the question, one for the call that buf makes afterwards: it sends the same headers in both, so only
  // the question can succeed.
  const listed = await run([
    join(repositoryRoot, "node_modules/.bin/buf"),
    ...["curl", "--list-services", "--protocol", "grpc", "--insecure", "--reflect-protocol", "grpc-v1"],
    ...[
      "--cert",
      join(capsule.configHome, "capsule/certificate.pem"),
      "--key",
      join(capsule.configHome, "capsule/key.pem"),
    ],
    ...["--reflect-header", `authorization: Bearer ${token(capsuleId)}`, `https://127.0.0.1:${capsule.host.port}`],
  ]);
  assert.match(listed, /capsule\.v1\.WorkloadService/);
});
