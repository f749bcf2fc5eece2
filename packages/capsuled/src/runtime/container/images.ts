/** Images by containerd: list and lookup here; import in import.ts, pull in pull.ts. */
import { timestampDate } from "@bufbuild/protobuf/wkt";
import type { Logger } from "pino";
import { CapsuleError } from "../../errors.ts";
import type { Image } from "../../gen/containerd/github.com/containerd/containerd/api/services/images/v1/images_pb.js";
import type { ImageInfo, ImageStore, PullProgress, RegistryAccess } from "../images.ts";
import { type Containerd, orUndefined, translated } from "./client.ts";
import type { ImageConfigs } from "./image-config.ts";
import { importArchive } from "./import.ts";
import { pullImage } from "./pull.ts";
import { normalizeReference, registryOf } from "./reference.ts";
import { settle } from "./settle.ts";
import { withView } from "./view.ts";

export class ContainerdImages implements ImageStore {
  readonly #client: Containerd;
  readonly #configs: ImageConfigs;
  readonly #log: Logger;

  constructor(client: Containerd, configs: ImageConfigs, log: Logger) {
    this.#client = client;
    this.#configs = configs;
    this.#log = log;
  }

  normalize(reference: string): string {
    return normalizeReference(reference);
  }

  registryOf(reference: string): string {
    return registryOf(reference);
  }

  async find(reference: string, signal?: AbortSignal): Promise<{ readonly digest: string } | undefined> {
    const call = this.#client.images.get({ name: reference }, signal === undefined ? {} : { signal });
    const found = await orUndefined(call).catch((error: unknown) => {
      throw translated(error, `Looking up ${reference}`);
    });
    const digest = found?.image?.target?.digest;
    return digest === undefined ? undefined : { digest };
  }

  async list(signal?: AbortSignal): Promise<readonly ImageInfo[]> {
    const { images } = await this.#client.images.list({}, signal === undefined ? {} : { signal });
    const byDigest = new Map<string, Image[]>();
    for (const image of images) {
      const digest = image.target?.digest ?? "";
      byDigest.set(digest, [...(byDigest.get(digest) ?? []), image]);
    }
    return await Promise.all([...byDigest].map(([digest, named]) => this.#info(digest, named)));
  }

  async pull(
    reference: string,
    access: RegistryAccess | undefined,
    onProgress: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<ImageInfo> {
    await pullImage(this.#client, reference, access, onProgress, signal);
    await settle(this.#client, [reference]);
    return await this.#named(reference);
  }

  async import(
    data: AsyncIterable<Uint8Array>,
    { name }: { readonly name: string | undefined },
    signal: AbortSignal,
  ): Promise<readonly ImageInfo[]> {
    const wanted = name === undefined ? undefined : normalizeReference(name);
    const names = await importArchive(this.#client, this.#configs, data, wanted, signal, this.#log);
    await settle(this.#client, names);
    return await Promise.all(names.map((one) => this.#named(one)));
  }

  async withRoot<T>(
    digest: string,
    work: (root: { readonly directory: string; readonly platform: string }) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T> {
    const { chainId, platform } = await this.#configs.get(digest, signal);
    return await withView(this.#client, chainId, (directory) => work({ directory, platform }), signal);
  }

  async remove(reference: string): Promise<void> {
    const all = (await this.#client.images.list({})).images;
    const named = all.filter(({ name, target }) => name === reference || target?.digest === reference);
    if (named.length === 0) {
      throw new CapsuleError(
        "notFound",
        `No image has the name or digest "${reference}". \`capsulectl image list\` shows them.`,
      );
    }
    for (const [i, { name }] of named.entries()) {
      // The last one collects what nothing refers to any more, before the answer.
      await orUndefined(this.#client.images.delete({ name, sync: i === named.length - 1 }));
    }
  }

  async #named(reference: string): Promise<ImageInfo> {
    const found = await this.#client.images.get({ name: reference });
    const image = found.image;
    if (image?.target === undefined) throw new CapsuleError("internal", `containerd lost image ${reference}`);
    return await this.#info(image.target.digest, [image]);
  }

  async #info(digest: string, named: readonly Image[]): Promise<ImageInfo> {
    // A list must not fail over one image whose content is broken.
    const config = await this.#configs.get(digest).catch((error: unknown) => {
      this.#log.warn({ err: error, digest }, "image cannot be read");
      return undefined;
    });
    const created = named.map(({ createdAt }) => (createdAt === undefined ? 0 : timestampDate(createdAt).getTime()));
    return {
      names: named.map(({ name }) => name).sort(),
      digest,
      sizeBytes: config?.sizeBytes ?? 0n,
      createdAt: new Date(Math.max(0, ...created)),
      platform: config?.platform ?? "unknown",
    };
  }
}
