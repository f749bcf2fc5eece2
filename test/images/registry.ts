/** A real registry (Debian's docker-registry, taken out of its package) in the network namespace of a capsule. */
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { downloadPackages, extractPackage } from "../../image/apt.ts";
import { cacheDir } from "../../image/paths.ts";
import { testImages } from "./build.ts";
import { imageParts } from "./image.ts";

export interface Registry {
  readonly port: number;
  stop(): void;
}

export interface RegistryOptions {
  /** Holds its blobs, configuration and log. */
  readonly dir: string;
  readonly port: number;
  /** A process whose network namespace it serves in; this one's own when absent. */
  readonly namespaceOf?: number;
  /** bcrypt lines; open to all when absent. */
  readonly htpasswd?: string;
  /** PEM; plain HTTP when absent. */
  readonly tls?: { readonly keyPem: string; readonly certificatePem: string };
}

async function program(): Promise<string> {
  const target = join(cacheDir, "docker-registry");
  const path = join(target, "usr/bin/docker-registry");
  if (existsSync(path)) return path;
  const [deb] = await downloadPackages(["docker-registry"], join(cacheDir, "debs"));
  if (deb === undefined) throw new Error("docker-registry was not downloaded");
  await extractPackage(deb, target);
  return path;
}

/** Starts it and waits until it listens. */
export async function startRegistry({ dir, port, namespaceOf, htpasswd, tls }: RegistryOptions): Promise<Registry> {
  mkdirSync(dir, { recursive: true });
  const config = join(dir, `config-${port}.yml`);
  const passwords = join(dir, `htpasswd-${port}`);
  if (htpasswd !== undefined) writeFileSync(passwords, htpasswd);
  const auth = htpasswd === undefined ? "" : `auth: {htpasswd: {realm: test, path: ${passwords}}}\n`;
  const [key, certificate] = [join(dir, `key-${port}.pem`), join(dir, `certificate-${port}.pem`)];
  if (tls !== undefined) {
    writeFileSync(key, tls.keyPem, { mode: 0o600 });
    writeFileSync(certificate, tls.certificatePem);
  }
  const secure = tls === undefined ? "" : `, tls: {key: ${key}, certificate: ${certificate}}`;
  writeFileSync(
    config,
    `version: 0.1\nlog: {level: warn}\nstorage: {filesystem: {rootdirectory: ${dir}/data}}\nhttp: {addr: "127.0.0.1:${port}"${secure}}\n${auth}`,
  );
  const command = [await program(), "serve", config];
  const enter = namespaceOf === undefined ? [] : ["nsenter", "-t", String(namespaceOf), "-n", "--"];
  const [file = "", ...args] = [...enter, ...command];
  const child = spawn(file, args, { stdio: ["ignore", "ignore", "pipe"] });
  let errors = "";
  child.stderr.on("data", (data: Buffer) => {
    errors += data.toString();
  });
  const deadline = Date.now() + 20_000;
  while (!listens(child.pid, port)) {
    if (child.exitCode !== null || Date.now() > deadline) {
      child.kill("SIGKILL");
      throw new Error(`the registry does not listen on ${port}: ${errors}`);
    }
    await sleep(20);
  }
  return { port, stop: () => void child.kill("SIGKILL") };
}

/** Seen in its own network namespace, in which nsenter is only at its end. State 0A is LISTEN (proc_net(5)). */
function listens(pid: number | undefined, port: number): boolean {
  const hex = port.toString(16).toUpperCase().padStart(4, "0");
  try {
    const isItself = readFileSync(`/proc/${pid}/comm`, "utf8").startsWith("docker-registr");
    return isItself && readFileSync(`/proc/${pid}/net/tcp`, "utf8").includes(`0100007F:${hex} 00000000:0000 0A`);
  } catch {
    return false;
  }
}

/** Puts an image of test/images into a registry on this machine (distribution-spec, "Pushing"). */
export async function pushTo(port: number, image: string): Promise<void> {
  const spec = (await testImages()).get(image);
  if (spec === undefined) throw new Error(`no image ${image}`);
  const { manifest, blobs } = imageParts(spec);
  const [name = "", tag = ""] = spec.name.split(":");
  const base = `http://127.0.0.1:${port}/v2/library/${name}`;
  for (const data of blobs) {
    const digest = `sha256:${createHash("sha256").update(data).digest("hex")}`;
    const started = await fetch(`${base}/blobs/uploads/`, { method: "POST" });
    const location = new URL(started.headers.get("location") ?? "", base);
    location.searchParams.set("digest", digest);
    const done = await fetch(location, {
      method: "PUT",
      body: new Uint8Array(data),
      headers: { "content-type": "application/octet-stream" },
    });
    if (done.status !== 201) throw new Error(`blob: ${done.status} ${await done.text()}`);
  }
  const put = await fetch(`${base}/manifests/${tag}`, {
    method: "PUT",
    body: new Uint8Array(manifest),
    headers: { "content-type": "application/vnd.oci.image.manifest.v1+json" },
  });
  if (put.status !== 201) throw new Error(`manifest: ${put.status} ${await put.text()}`);
}
