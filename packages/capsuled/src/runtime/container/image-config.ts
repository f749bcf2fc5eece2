/** What an image says of how it is run: read from containerd's content store, kept for the images used last. */
import { createHash } from "node:crypto";
import { CapsuleError } from "../../errors.ts";
import { type Containerd, translated } from "./client.ts";

/** The parts of an image's configuration that matter here (OCI image-spec, config.md). */
export interface ImageConfig {
  readonly platform: string;
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly env: readonly string[];
  readonly user: string;
  readonly workingDir: string;
  readonly stopSignal: string | undefined;
  /** Snapshot that holds its root filesystem (OCI image-spec, "Layer ChainID"). */
  readonly chainId: string;
  /** Compressed layers and configuration. */
  readonly sizeBytes: bigint;
}

interface Descriptor {
  readonly mediaType?: string;
  readonly digest: string;
  readonly size: number;
  readonly platform?: { readonly architecture?: string; readonly os?: string };
}

/** Documents beyond this are no honest ones. */
const maxDocumentBytes = 8 * 1024 * 1024;
const kept = 64;

export const architecture = process.arch === "x64" ? "amd64" : process.arch;

export class ImageConfigs {
  readonly #client: Containerd;
  readonly #known = new Map<string, ImageConfig>();

  constructor(client: Containerd) {
    this.#client = client;
  }

  /** Of the manifest or index with this digest. Throws `precondition` when it has nothing for this machine. */
  async get(digest: string, signal?: AbortSignal): Promise<ImageConfig> {
    const found = this.#known.get(digest);
    if (found !== undefined) return found;
    const config = await this.#read(digest, signal);
    this.#known.set(digest, config);
    for (const oldest of this.#known.keys()) {
      if (this.#known.size <= kept) break;
      this.#known.delete(oldest);
    }
    return config;
  }

  async #read(digest: string, signal?: AbortSignal): Promise<ImageConfig> {
    let document = await this.#json(digest, signal);
    if (Array.isArray(document["manifests"])) {
      const manifests = document["manifests"] as Descriptor[];
      const ours = manifests.find(({ platform }) => platform?.os === "linux" && platform.architecture === architecture);
      const only = manifests.length === 1 && manifests[0]?.platform === undefined ? manifests[0] : undefined;
      const chosen = ours ?? only;
      if (chosen === undefined) {
        throw new CapsuleError("precondition", `Image ${digest} has no manifest for linux/${architecture}.`, {
          reason: "WRONG_PLATFORM",
        });
      }
      document = await this.#json(chosen.digest, signal);
    }
    const descriptor = document["config"] as Descriptor | undefined;
    const layers = document["layers"] as Descriptor[] | undefined;
    if (descriptor === undefined || !Array.isArray(layers)) {
      throw new CapsuleError("precondition", `Image ${digest} is no image: its manifest names no configuration.`);
    }
    const config = await this.#json(descriptor.digest, signal);
    const run = (config["config"] ?? {}) as Record<string, unknown>;
    const diffIds = (config["rootfs"] as { diff_ids?: string[] } | undefined)?.diff_ids ?? [];
    return {
      platform: `${String(config["os"] ?? "linux")}/${String(config["architecture"] ?? architecture)}`,
      entrypoint: words(run["Entrypoint"]),
      cmd: words(run["Cmd"]),
      env: words(run["Env"]),
      user: typeof run["User"] === "string" ? run["User"] : "",
      workingDir: typeof run["WorkingDir"] === "string" ? run["WorkingDir"] : "",
      stopSignal: typeof run["StopSignal"] === "string" ? run["StopSignal"] : undefined,
      chainId: chainId(diffIds),
      sizeBytes: BigInt(descriptor.size) + layers.reduce((sum, { size }) => sum + BigInt(size), 0n),
    };
  }

  async #json(digest: string, signal?: AbortSignal): Promise<Record<string, unknown>> {
    const chunks: Uint8Array[] = [];
    let size = 0;
    try {
      const stream = this.#client.content.read({ digest }, signal === undefined ? {} : { signal });
      for await (const { data } of stream) {
        size += data.length;
        if (size > maxDocumentBytes) {
          throw new CapsuleError("precondition", `${digest} is larger than any manifest or configuration of an image.`);
        }
        chunks.push(data);
      }
    } catch (error) {
      throw translated(error, `Reading ${digest}`);
    }
    let parsed: unknown;
    try {
      parsed = JSON.parse(Buffer.concat(chunks).toString("utf8"));
    } catch (error) {
      throw new CapsuleError("precondition", `${digest} is no JSON document.`, { cause: error });
    }
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
      throw new CapsuleError("precondition", `${digest} is no manifest or configuration.`);
    }
    return parsed as Record<string, unknown>;
  }
}

/** OCI image-spec: ChainID(L0) = DiffID(L0); ChainID(L0…Ln) = SHA256(ChainID(L0…Ln-1) + " " + DiffID(Ln)). */
export function chainId(diffIds: readonly string[]): string {
  return diffIds.reduce(
    (parent, diffId) =>
      parent === "" ? diffId : `sha256:${createHash("sha256").update(`${parent} ${diffId}`).digest("hex")}`,
    "",
  );
}

function words(value: unknown): string[] {
  return Array.isArray(value) ? value.filter((word): word is string => typeof word === "string") : [];
}
