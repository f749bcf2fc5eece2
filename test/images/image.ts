import { createHash } from "node:crypto";
import { mkdir, rename, writeFile } from "node:fs/promises";
import { dirname } from "node:path";
import { type TarEntry, tar } from "./tar.ts";

export type ImageConfig = {
  readonly Entrypoint?: readonly string[];
  readonly Cmd?: readonly string[];
  readonly Env?: readonly string[];
  readonly User?: string;
  readonly WorkingDir?: string;
  readonly ExposedPorts?: Readonly<Record<string, Record<string, never>>>;
};

export type ImageSpec = {
  /** Such as `hello:1`. */
  readonly name: string;
  /** Lowest layer first. */
  readonly layers: readonly (readonly TarEntry[])[];
  readonly config?: ImageConfig;
};

/** The manifest of an image, and the blobs that it names: configuration and layers. */
export function imageParts(image: ImageSpec): { manifest: Buffer; blobs: Buffer[] } {
  const { manifest, blobs } = partsOf(image);
  return { manifest, blobs: [...blobs.values()].filter((data) => data !== manifest) };
}

/**
 * Writes an image as one tar that is an OCI layout and a docker-save archive at once, as docker itself writes it:
 * containerd takes it by either reading. Equal input gives equal bytes.
 */
export function imageArchive(image: ImageSpec): Buffer {
  const { architecture, blobs, config, layers, manifestDescriptor: manifest } = partsOf(image);
  const reference = `docker.io/library/${image.name}`;
  const index = json({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [
      {
        mediaType: "application/vnd.oci.image.manifest.v1+json",
        ...manifest,
        platform: { architecture, os: "linux" },
        annotations: {
          "io.containerd.image.name": reference,
          "org.opencontainers.image.ref.name": image.name.split(":")[1] ?? "latest",
        },
      },
    ],
  });
  const blobPath = (digest: string): string => `blobs/sha256/${digest.slice("sha256:".length)}`;
  const docker = json([
    { Config: blobPath(config.digest), RepoTags: [reference], Layers: layers.map((layer) => blobPath(layer.digest)) },
  ]);
  const files: [string, Buffer][] = [
    ["oci-layout", json({ imageLayoutVersion: "1.0.0" })],
    ["index.json", index],
    ["manifest.json", docker],
    ...blobs,
  ];
  return tar([
    { path: "blobs", type: "directory" },
    { path: "blobs/sha256", type: "directory" },
    ...files.map(([path, data]): TarEntry => ({ path, type: "file", data })),
  ]);
}

function partsOf(image: ImageSpec) {
  const blobs = new Map<string, Buffer>();
  const add = (data: Buffer): { digest: string; size: number } => {
    const hex = createHash("sha256").update(data).digest("hex");
    blobs.set(`blobs/sha256/${hex}`, data);
    return { digest: `sha256:${hex}`, size: data.length };
  };
  const layers = image.layers.map((entries) => add(tar(entries)));
  const architecture = process.arch === "x64" ? "amd64" : process.arch;
  const config = add(
    json({
      architecture,
      os: "linux",
      created: "1970-01-01T00:00:00Z",
      config: image.config ?? {},
      rootfs: { type: "layers", diff_ids: layers.map((layer) => layer.digest) },
    }),
  );
  const manifest = json({
    schemaVersion: 2,
    mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: { mediaType: "application/vnd.oci.image.config.v1+json", ...config },
    layers: layers.map((layer) => ({ mediaType: "application/vnd.oci.image.layer.v1.tar", ...layer })),
  });
  return { architecture, blobs, config, layers, manifest, manifestDescriptor: add(manifest) };
}

/** Writes {@link imageArchive} to a file, complete or not at all. */
export async function writeImage(image: ImageSpec, path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  await writeFile(`${path}.${process.pid}`, imageArchive(image));
  await rename(`${path}.${process.pid}`, path);
}

function json(value: unknown): Buffer {
  return Buffer.from(JSON.stringify(value));
}
