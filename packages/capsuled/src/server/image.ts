/** ImageService: images, and the registries that they come from. */
import { create } from "@bufbuild/protobuf";
import { durationMs, timestampFromDate } from "@bufbuild/protobuf/wkt";
import {
  type Image,
  ImageSchema,
  type ImageService,
  type MachineSpec,
  type Registry,
  RegistrySchema,
} from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import { registryFaults } from "../machine/registry-faults.ts";
import type { ImageInfo, ImageStore, RegistryAccess } from "../runtime/images.ts";
import type { RegistryRecord } from "../store/registries.ts";
import type { Store } from "../store/store.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";

export function imageService({
  store,
  images,
  document,
  changed,
}: {
  readonly store: Store;
  readonly images: ImageStore;
  /** Registries that it names are its own. */
  readonly document: () => Pick<MachineSpec, "registries">;
  /** Told when images were added: workloads may wait for one. */
  readonly changed: () => void;
}): ServiceImpl<typeof ImageService> {
  const refuseOfDocument = (host: string): void => {
    if (!document().registries.some((one) => one.host === host)) return;
    throw new CapsuleError(
      "precondition",
      `Registry "${host}" is in the machine's document: change it there (\`capsulectl machine get -o yaml\`).`,
      { reason: "SET_BY_MACHINE" },
    );
  };
  const usedBy = (): Map<string, string[]> => {
    const users = new Map<string, string[]>();
    for (const { name, spec, status } of store.workloads.list()) {
      const image = spec.kind.value?.image;
      const references = [...(image === undefined ? [] : [images.normalize(image)]), status.imageDigest];
      for (const reference of references) {
        if (reference !== "") users.set(reference, [...(users.get(reference) ?? []), name]);
      }
    }
    return users;
  };
  const listed = async (): Promise<Image[]> => {
    const users = usedBy();
    return (await images.list())
      .map((info) => messageOf(info, users))
      .sort((a, b) => ((a.names[0] ?? "") < (b.names[0] ?? "") ? -1 : 1));
  };
  return {
    async listImages() {
      return { images: await listed() };
    },
    async *pullImage({ reference, credentials }, context) {
      const full = images.normalize(reference);
      const stored = store.registries.get(images.registryOf(full));
      const access = credentials === undefined ? stored : { ...(stored ?? noAccess), ...credentials };
      const progress = new Latest<{ doneBytes: bigint; totalBytes: bigint; step: string }>();
      const pulling = images.pull(full, access, (update) => progress.set({ ...update }), callOf(context).signal);
      pulling.then(
        () => progress.end(),
        () => progress.end(),
      );
      for await (const value of progress) yield { update: { case: "progress" as const, value } };
      const info = await pulling;
      changed();
      yield { update: { case: "image" as const, value: messageOf(info, usedBy()) } };
    },
    async pushImage(requests, context) {
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") {
        throw new CapsuleError("invalid", "The first message of the stream must be `start`.", { reason: "NO_START" });
      }
      const { name } = first.input.value;
      const data = (async function* () {
        for await (const { input } of rest) if (input.case === "data") yield input.value;
      })();
      const added = await images.import(data, { name: name === "" ? undefined : name }, callOf(context).signal);
      changed();
      const users = usedBy();
      return { images: added.map((info) => messageOf(info, users)) };
    },
    async removeImage({ reference }) {
      const full = /^sha256:[0-9a-f]{64}$/.test(reference) ? reference : images.normalize(reference);
      const users = usedBy().get(full) ?? [];
      if (users.length > 0) {
        throw new CapsuleError(
          "precondition",
          `Image ${full} is used by ${users.join(", ")}. Delete or change them first.`,
          {
            reason: "IMAGE_IN_USE",
            metadata: { workload: users[0] ?? "" },
          },
        );
      }
      await images.remove(full);
      return {};
    },
    async pruneImages({ dryRun, olderThan }) {
      const newest = Date.now() - (olderThan === undefined ? 0 : durationMs(olderThan));
      const all = await images.list();
      const users = usedBy();
      const unused = all.filter(
        ({ names, digest, createdAt }) =>
          createdAt.getTime() <= newest && [...names, digest].every((reference) => !users.has(reference)),
      );
      for (const { digest } of dryRun ? [] : unused) await images.remove(digest);
      return {
        removed: unused.map((info) => messageOf(info, users)),
        freedBytes: unused.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0n),
      };
    },
    async listRegistries() {
      return { registries: store.registries.list().map(messageOfRegistry) };
    },
    async setRegistry({ registry, password }) {
      const wanted = registry ?? create(RegistrySchema);
      const violations = registryFaults(wanted, "registry");
      if (violations.length > 0) {
        throw new CapsuleError("invalid", `${violations[0]?.path}: ${violations[0]?.description}`, { violations });
      }
      const { host, mirrors, username, plainHttp, caCertificate } = wanted;
      refuseOfDocument(host);
      const kept = store.registries.get(host)?.password ?? "";
      store.registries.set({ host, mirrors, username, password: password ?? kept, plainHttp, caCertificate });
      const record = store.registries.get(host);
      changed();
      return record === undefined ? {} : { registry: messageOfRegistry(record) };
    },
    async removeRegistry({ host }) {
      refuseOfDocument(host);
      if (!store.registries.remove(host)) {
        throw new CapsuleError(
          "notFound",
          `Nothing is set for registry "${host}". \`capsulectl registry list\` shows what is.`,
        );
      }
      return {};
    },
  };
}

const noAccess: RegistryAccess = { mirrors: [], username: "", password: "", plainHttp: false, caCertificate: "" };

function messageOf(
  { names, digest, sizeBytes, createdAt, platform }: ImageInfo,
  users: ReadonlyMap<string, string[]>,
): Image {
  const usedBy = [...new Set([...names, digest].flatMap((reference) => users.get(reference) ?? []))].sort();
  return create(ImageSchema, {
    names: [...names],
    digest,
    sizeBytes,
    createdAt: timestampFromDate(createdAt),
    platform,
    usedBy,
  });
}

function messageOfRegistry({ password, mirrors, ...registry }: RegistryRecord): Registry {
  return create(RegistrySchema, { ...registry, mirrors: [...mirrors], hasPassword: password !== "" });
}

/** The newest of values that come faster than they are read. */
class Latest<T> implements AsyncIterable<T> {
  #value: T | undefined;
  #ended = false;
  #wake: () => void = () => undefined;

  set(value: T): void {
    this.#value = value;
    this.#wake();
  }

  end(): void {
    this.#ended = true;
    this.#wake();
  }

  async *[Symbol.asyncIterator](): AsyncIterator<T> {
    for (;;) {
      const value = this.#value;
      this.#value = undefined;
      if (value !== undefined) yield value;
      else if (this.#ended) return;
      else {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
      }
    }
  }
}
