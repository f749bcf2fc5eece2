/** Root disks of machines, as whoever keeps them gives them (storage/volumes/image-bases.ts). */
export interface RootDisks {
  /** The root disk of a machine, made of its image when it has none; of this size at least, in bytes. */
  ensureRoot(
    owner: string,
    digest: string,
    sizeBytes: number,
    signal: AbortSignal,
  ): Promise<{ readonly path: string; readonly sizeBytes: number }>;
  removeRoot(owner: string): Promise<void>;
}
