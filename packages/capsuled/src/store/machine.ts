import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { type MachineSpec, MachineSpecSchema } from "@capsule/api";
import type { Database } from "./database.ts";
import type { RegistryRecord, RegistryRepository } from "./registries.ts";

/** The document of the machine, without passwords: those are the registries' own. */
export interface MachineRecord {
  /** Counts the changes; 0 before the first. */
  readonly generation: number;
  readonly spec: MachineSpec;
  /** The one before, while `spec` waits for its confirmation. */
  readonly previous: MachineSpec | undefined;
}

/**
 * One document, and while it is not confirmed also the one before it. The registries that a document names are written with
 * it, and go back with it.
 */
export class MachineRepository {
  readonly #db: Database;
  readonly #registries: RegistryRepository;

  constructor(db: Database, registries: RegistryRepository) {
    this.#db = db;
    this.#registries = registries;
  }

  get(): MachineRecord {
    const row = this.#db.get("SELECT * FROM machine");
    if (row === undefined) return { generation: 0, spec: create(MachineSpecSchema), previous: undefined };
    const previous = row["previous_spec"] as Uint8Array | null;
    return {
      generation: Number(row["generation"]),
      spec: fromBinary(MachineSpecSchema, row["spec"] as Uint8Array),
      previous: previous === null ? undefined : fromBinary(MachineSpecSchema, previous),
    };
  }

  /** Makes this the document. `waits`: the one before is kept until `confirm` or `revert`. None must be waiting. */
  set(spec: MachineSpec, waits: boolean): MachineRecord {
    return this.#db.transaction(() => {
      const { generation, spec: before } = this.get();
      const hosts = new Set([...before.registries, ...spec.registries].map(({ host }) => host));
      const kept = [...hosts].map((host) => ({ host, record: this.#registries.get(host) ?? null }));
      const stored = fromBinary(MachineSpecSchema, toBinary(MachineSpecSchema, spec));
      for (const registry of stored.registries) {
        const password = registry.password ?? this.#registries.get(registry.host)?.password ?? "";
        const { host, mirrors, username, plainHttp, caCertificate } = registry;
        this.#registries.set({ host, mirrors, username, password, plainHttp, caCertificate });
        delete registry.password;
      }
      for (const { host } of before.registries)
        if (!stored.registries.some((one) => one.host === host)) this.#registries.remove(host);
      this.#db.run(
        `INSERT OR REPLACE INTO machine (id, generation, spec, previous_spec, previous_registries) VALUES (1, ?, ?, ?, ?)`,
        generation + 1,
        toBinary(MachineSpecSchema, stored),
        waits ? toBinary(MachineSpecSchema, before) : null,
        waits ? JSON.stringify(kept) : null,
      );
      return this.get();
    });
  }

  confirm(): void {
    this.#db.run("UPDATE machine SET previous_spec = NULL, previous_registries = NULL");
  }

  /** Puts back what was there before the document that waits. Its generation stays counted. */
  revert(): MachineRecord {
    return this.#db.transaction(() => {
      const row = this.#db.get("SELECT * FROM machine");
      const previous = row?.["previous_spec"] as Uint8Array | null | undefined;
      if (row === undefined || previous === null || previous === undefined) return this.get();
      const kept = JSON.parse(row["previous_registries"] as string) as {
        host: string;
        record: RegistryRecord | null;
      }[];
      for (const { host, record } of kept) {
        if (record === null) this.#registries.remove(host);
        else this.#registries.set(record);
      }
      this.#db.run(
        "UPDATE machine SET generation = generation + 1, spec = ?, previous_spec = NULL, previous_registries = NULL",
        previous,
      );
      return this.get();
    });
  }
}
