/**
 * The interface of a pool's backend: disks that are created, copied in an instant, grown and removed. It knows nothing of
 * filesystems, volumes or the store.
 *
 * A disk is made in two phases, so that a cut leaves nothing unclear: `create` and `snapshot` leave one that is not whole;
 * `publish` makes it whole. Whoever promises a disk to somebody writes that down in between. What is not whole and was
 * promised to nobody may be removed; what is whole is never removed but by request.
 *
 * Every method that changes something is durable when it resolves, may be called twice, and may be cut anywhere.
 */

export interface DiskId {
  /** Of layout.ts; at most 100 of a–z, 0–9 and "-". */
  readonly name: string;
  /** 1 to 32 of a–z and 0–9. Two disks of one name are told apart by it. */
  readonly uid: string;
}

export interface Disk extends DiskId {
  readonly whole: boolean;
  readonly sizeBytes: number;
  /** What its blocks take in the pool; blocks that several disks share count in each. */
  readonly usedBytes: number;
}

export interface PoolUsage {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  /** 0 to 1, of what the pool keeps about its disks; 0 where that cannot run out by itself. */
  readonly metadataRatio: number;
}

export type BackendKind = "lvm-thin" | "reflink";

export interface PoolBackend {
  readonly kind: BackendKind;
  /** `snapshot` brings the mounted filesystem of its origin to rest by itself. */
  readonly snapshotFreezes: boolean;

  /**
   * Makes the pool usable; throws CapsuleError `precondition` saying why it cannot be. Also cleans up after a kill of
   * capsuled. `create`: make the pool if it has never been there.
   */
  open(create: boolean): Promise<"open" | "absent">;
  /** Of one that has not been made yet: what it would be. */
  usage(): Promise<PoolUsage>;
  /** All disks of ours, in no order. */
  list(): Promise<readonly Disk[]>;

  /** A new disk that reads as zeros. `sizeBytes` is a whole number of extents. Throws `conflict` when the name is taken. */
  create(id: DiskId, sizeBytes: number): Promise<void>;
  /** A new disk with the content that `from` has now, sharing its blocks. Throws `conflict` when the name is taken. */
  snapshot(from: DiskId, to: DiskId): Promise<void>;
  /** Makes it whole, under this name: its own or another, which must be free. */
  publish(id: DiskId, name: string): Promise<void>;
  /** Larger only. Whoever has the device open sees the new size. */
  grow(id: DiskId, sizeBytes: number): Promise<void>;
  /** Throws `conflict` while it is in use. Nothing happens when there is none of this name and uid. */
  remove(id: DiskId): Promise<void>;

  /** A path that tools open to read and write the content: a file or a block device. Good until it is removed. */
  pathOf(id: DiskId): Promise<string>;
  /** Calls `work` with a block device, which stays as long as somebody has it open or mounted, and goes by itself then. */
  withDevice<T>(id: DiskId, work: (device: string) => Promise<T>): Promise<T>;
  /** Bytes that would be free again without this disk; undefined when the backend cannot tell. */
  exclusiveBytes(id: DiskId): Promise<number | undefined>;
}
