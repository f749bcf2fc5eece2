/**
 * The store is the truth: what is wanted, what is known, who may call. Every write that a caller is told of is on the
 * disk before the answer (SQLite, WAL, synchronous=FULL). capsuled is its only writer, and all access is synchronous:
 * a transaction never waits for anything but the disk.
 */
import { AddressRepository } from "./addresses.ts";
import { AuditRepository } from "./audit.ts";
import { ChangeFeed } from "./changes.ts";
import { Database } from "./database.ts";
import { EventRepository } from "./events.ts";
import { HostPortRepository } from "./host-ports.ts";
import { ImageBaseRepository } from "./image-bases.ts";
import { KeyRepository } from "./keys.ts";
import { MachineRepository } from "./machine.ts";
import { MetaRepository } from "./meta.ts";
import { RegistryRepository } from "./registries.ts";
import { SnapshotRepository } from "./snapshots.ts";
import { VolumeClaimRepository } from "./volume-claims.ts";
import { VolumeRepository } from "./volumes.ts";
import { WorkloadRepository } from "./workloads.ts";

export class Store {
  readonly changes = new ChangeFeed();
  readonly meta: MetaRepository;
  readonly workloads: WorkloadRepository;
  readonly addresses: AddressRepository;
  readonly hostPorts: HostPortRepository;
  readonly volumes: VolumeRepository;
  readonly volumeClaims: VolumeClaimRepository;
  readonly snapshots: SnapshotRepository;
  readonly imageBases: ImageBaseRepository;
  readonly keys: KeyRepository;
  readonly events: EventRepository;
  readonly audit: AuditRepository;
  readonly registries: RegistryRepository;
  readonly machine: MachineRepository;
  readonly #db: Database;

  /** Opens or creates the database file; see Database for what it throws. */
  constructor(path: string) {
    this.#db = new Database(path);
    this.meta = new MetaRepository(this.#db);
    this.workloads = new WorkloadRepository(this.#db, this.changes);
    this.addresses = new AddressRepository(this.#db);
    this.hostPorts = new HostPortRepository(this.#db);
    this.volumes = new VolumeRepository(this.#db, this.changes);
    this.volumeClaims = new VolumeClaimRepository(this.#db);
    this.snapshots = new SnapshotRepository(this.#db);
    this.imageBases = new ImageBaseRepository(this.#db);
    this.keys = new KeyRepository(this.#db, this.changes);
    this.events = new EventRepository(this.#db, this.changes);
    this.audit = new AuditRepository(this.#db);
    this.registries = new RegistryRepository(this.#db, this.changes);
    this.machine = new MachineRepository(this.#db, this.registries);
  }

  /** All writes of `work` become durable together or not at all; changes are published after that. */
  transaction<T>(work: () => T): T {
    return this.#db.transaction(work);
  }

  /** Number of the schema, and rows of each table. */
  facts(): ReturnType<Database["facts"]> {
    return this.#db.facts();
  }

  close(): void {
    this.#db.close();
  }
}
