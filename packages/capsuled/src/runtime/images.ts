/** Images on the capsule: what the container runtime keeps and fetches. References are normalised ones throughout. */

export interface ImageInfo {
  /** Full references, such as `docker.io/library/busybox:1`. */
  readonly names: readonly string[];
  /** Of the manifest or index that the names point to. */
  readonly digest: string;
  /** Compressed content of this platform. */
  readonly sizeBytes: bigint;
  readonly createdAt: Date;
  /** Such as `linux/amd64`. */
  readonly platform: string;
}

/** How a registry is reached; the caller looks it up for the host of the reference. */
export interface RegistryAccess {
  /** Base URLs, tried in order before the registry itself. */
  readonly mirrors: readonly string[];
  /** Empty: none. */
  readonly username: string;
  readonly password: string;
  readonly plainHttp: boolean;
  /** PEM, or empty for the public authorities. */
  readonly caCertificate: string;
}

export interface PullProgress {
  readonly doneBytes: bigint;
  /** 0 while unknown. */
  readonly totalBytes: bigint;
  /** Such as "resolving", "fetching", "unpacking". */
  readonly step: string;
}

export interface ImageStore {
  /** Full reference of what a person wrote, as `docker pull` reads it. Throws CapsuleError `invalid`. */
  normalize(reference: string): string;
  /** Host (and port) of a normalised reference. */
  registryOf(reference: string): string;
  /** One lookup, no content read: cheap enough for each start of a workload. */
  find(reference: string, signal?: AbortSignal): Promise<{ readonly digest: string } | undefined>;
  list(signal?: AbortSignal): Promise<readonly ImageInfo[]>;
  /**
   * Fetches and unpacks. Throws CapsuleError with the registry's own reason: `notFound` (no such image), `denied`
   * (credentials), `unavailable` (registry away), `exhausted` (disk full). Nothing of a failed pull is in the list.
   */
  pull(
    reference: string,
    access: RegistryAccess | undefined,
    onProgress: (progress: PullProgress) => void,
    signal: AbortSignal,
  ): Promise<ImageInfo>;
  /**
   * Imports and unpacks a docker-save or OCI archive. `name` names its only image. Throws CapsuleError `invalid` for a
   * broken or hostile archive, of which nothing stays.
   */
  import(
    data: AsyncIterable<Uint8Array>,
    options: { readonly name: string | undefined },
    signal: AbortSignal,
  ): Promise<readonly ImageInfo[]>;
  /**
   * Calls `work` with a directory that shows the root filesystem of an unpacked image, read-only. Throws `precondition`
   * when the image has nothing for this machine, `notFound` when it is not there.
   */
  withRoot<T>(
    digest: string,
    work: (root: { readonly directory: string; readonly platform: string }) => Promise<T>,
    signal: AbortSignal,
  ): Promise<T>;
  /** Removes a name, or all names of a digest; content nothing refers to is collected before it resolves. */
  remove(reference: string): Promise<void>;
}
