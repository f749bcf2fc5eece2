import { CapsuleError } from "../errors.ts";
import type { Database } from "./database.ts";

export interface PortClaim {
  readonly protocol: "tcp" | "udp";
  readonly port: number;
  /** Empty for every address of the capsule. */
  readonly hostAddress: string;
}

/** Ports of the capsule that workloads claim, from apply until they are gone. */
export class HostPortRepository {
  readonly #db: Database;

  constructor(db: Database) {
    this.#db = db;
  }

  /**
   * Replaces the claims of a workload. Throws CapsuleError `conflict` naming the holder when another one has a port on
   * the same address, or either of the two on every address. To be called inside the transaction of the apply.
   */
  replace(uid: string, claims: readonly PortClaim[]): void {
    this.#db.transaction(() => {
      this.#db.run("DELETE FROM host_ports WHERE uid = ?", uid);
      for (const claim of claims) {
        const holder = this.#holder(claim);
        if (holder !== undefined) throw taken(claim, holder);
        this.#db.run(
          "INSERT INTO host_ports (protocol, port, host_address, uid) VALUES (?, ?, ?, ?)",
          claim.protocol,
          claim.port,
          claim.hostAddress,
          uid,
        );
      }
    });
  }

  list(): (PortClaim & { readonly uid: string })[] {
    return this.#db
      .all("SELECT protocol, port, host_address, uid FROM host_ports ORDER BY protocol, port, host_address")
      .map((row) => ({
        protocol: row["protocol"] as "tcp" | "udp",
        port: Number(row["port"]),
        hostAddress: row["host_address"] as string,
        uid: row["uid"] as string,
      }));
  }

  /** Name of the workload that a claim clashes with. */
  #holder({ protocol, port, hostAddress }: PortClaim): string | undefined {
    const row = this.#db.get(
      `SELECT workloads.name FROM host_ports JOIN workloads USING (uid)
       WHERE protocol = ? AND port = ? AND (host_address = ? OR host_address = '' OR ? = '')`,
      protocol,
      port,
      hostAddress,
      hostAddress,
    );
    return row?.["name"] as string | undefined;
  }
}

function taken({ protocol, port }: PortClaim, holder: string): CapsuleError {
  return new CapsuleError(
    "conflict",
    `Port ${port}/${protocol} of the capsule is taken by workload "${holder}". Choose another hostPort, or change or delete that workload first.`,
    { reason: "PORT_TAKEN", metadata: { port: String(port), protocol, holder } },
  );
}
