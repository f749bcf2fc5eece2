/** LVM2 (lvm(8)), on one physical volume only: other disks of the machine are none of its business. */
import { CapsuleError } from "../../errors.ts";
import { runTool } from "../../tool.ts";
import { groupName } from "../layout.ts";

/** A disk that answers slowly is not a fault yet. */
const timeoutMs = 120_000;
/**
 * LVM makes no thin volume in a pool that is fuller than the share from which it grows by itself. But in one that cannot grow
 * an operator needs the snapshot of an export most, and blocks that are shared take nothing.
 */
const whateverIsFree = ["--config", "activation/thin_pool_autoextend_threshold=100"];

export interface LogicalVolume {
  readonly name: string;
  readonly sizeBytes: number;
  readonly tags: readonly string[];
  /** Volumes that live in a thin pool. */
  readonly isThin: boolean;
  /** By which the pool knows a thin volume; NaN of others. */
  readonly thinId: number;
  /** Open: mounted, or held by a program. */
  readonly isOpen: boolean;
  readonly active: boolean;
  /** 0 to 1, of a thin volume or pool; 0 for others. */
  readonly dataRatio: number;
  /** 0 to 1, of a thin pool; 0 for others. */
  readonly metadataRatio: number;
}

export class Lvm {
  readonly #device: string;

  constructor(device: string) {
    this.#device = device;
  }

  /** With what is known of the group that it is in. */
  async physicalVolume(): Promise<{
    readonly sizeBytes: number;
    readonly deviceBytes: number;
    readonly group: { readonly name: string; readonly sizeBytes: number; readonly freeBytes: number } | undefined;
  }> {
    const fields = "pv_size,dev_size,vg_name,vg_size,vg_free";
    const [pv] = await this.#report("pv", ["pvs", "-o", fields, this.#device]);
    if (pv === undefined) throw new CapsuleError("internal", `LVM does not know ${this.#device}`);
    const name = pv["vg_name"] ?? "";
    return {
      sizeBytes: Number(pv["pv_size"]),
      deviceBytes: Number(pv["dev_size"]),
      group: name === "" ? undefined : { name, sizeBytes: Number(pv["vg_size"]), freeBytes: Number(pv["vg_free"]) },
    };
  }

  async volumes(): Promise<LogicalVolume[]> {
    const fields = "lv_name,lv_size,lv_tags,pool_lv,lv_active,lv_device_open,thin_id,data_percent,metadata_percent";
    const rows = await this.#report("lv", ["lvs", "-o", fields, groupName]);
    return rows.map((row) => ({
      name: row["lv_name"] ?? "",
      sizeBytes: Number(row["lv_size"]),
      tags: (row["lv_tags"] ?? "").split(",").filter((tag) => tag !== ""),
      isThin: (row["pool_lv"] ?? "") !== "",
      thinId: Number.parseInt(row["thin_id"] ?? "", 10),
      isOpen: row["lv_device_open"] === "open",
      active: row["lv_active"] === "active",
      dataRatio: Number(row["data_percent"] ?? 0) / 100,
      metadataRatio: Number(row["metadata_percent"] ?? 0) / 100,
    }));
  }

  async createPhysicalVolume(): Promise<void> {
    await this.#run(["pvcreate", "--yes", "--zero", "y", this.#device]);
  }

  async growPhysicalVolume(): Promise<void> {
    await this.#run(["pvresize", this.#device]);
  }

  async createGroup(): Promise<void> {
    await this.#run(["vgcreate", groupName, this.#device]);
  }

  /** All volumes of the group but those that are told to be skipped. */
  async activate(): Promise<void> {
    await this.#run(["vgchange", "--activate", "y", groupName]);
  }

  /** All volumes of the group. Throws ToolError while one is open. */
  async deactivate(): Promise<void> {
    await this.#run(["vgchange", "--activate", "n", groupName]);
  }

  /** One volume, that nobody can write to: for a look at a group that is somebody else's. */
  async activateReadOnly(name: string): Promise<void> {
    const readOnly = ["--config", `activation/read_only_volume_list=["${groupName}"]`];
    await this.#run(["lvchange", ...readOnly, "--activate", "y", `${groupName}/${name}`]);
  }

  /** One volume, also one that is told to be skipped. */
  async activateVolume(name: string): Promise<void> {
    await this.#run(["lvchange", "--activate", "y", "--ignoreactivationskip", `${groupName}/${name}`]);
  }

  async createLinear(name: string, sizeBytes: number): Promise<void> {
    await this.#run(["lvcreate", "--yes", "--wipesignatures", "y", "-n", name, "-L", `${sizeBytes}b`, groupName]);
  }

  async createPool(name: string, sizeBytes: number, metadataBytes: number): Promise<void> {
    const sizes = ["-L", `${sizeBytes}b`, "--poolmetadatasize", `${metadataBytes}b`];
    await this.#run(["lvcreate", "--yes", "--type", "thin-pool", "-n", name, ...sizes, groupName]);
  }

  async createThin(pool: string, name: string, sizeBytes: number, tags: readonly string[]): Promise<void> {
    const where = ["--type", "thin", "--thinpool", `${groupName}/${pool}`, "-V", `${sizeBytes}b`];
    await this.#run(["lvcreate", "--yes", ...whateverIsFree, ...where, "-n", name, ...tagged(tags)]);
  }

  /** A thin snapshot: not active, and skipped when the group is activated, which is LVM's default for them. */
  async snapshotThin(from: string, name: string, tags: readonly string[]): Promise<void> {
    const origin = ["--snapshot", `${groupName}/${from}`];
    await this.#run(["lvcreate", "--yes", ...whateverIsFree, ...origin, "-n", name, ...tagged(tags)]);
  }

  async extend(name: string, sizeBytes: number): Promise<void> {
    await this.#run(["lvextend", "-L", `${sizeBytes}b`, `${groupName}/${name}`]);
  }

  async rename(from: string, to: string): Promise<void> {
    await this.#run(["lvrename", groupName, from, to]);
  }

  async addTag(name: string, tag: string): Promise<void> {
    await this.#run(["lvchange", "--addtag", tag, `${groupName}/${name}`]);
  }

  /** Whether it is left out when the whole group is activated at boot. */
  async setSkipped(name: string, isSkipped: boolean): Promise<void> {
    await this.#run(["lvchange", "--setactivationskip", isSkipped ? "y" : "n", `${groupName}/${name}`]);
  }

  /** Throws ToolError while it is open. */
  async remove(name: string): Promise<void> {
    await this.#run(["lvremove", "--yes", `${groupName}/${name}`]);
  }

  async #run(args: readonly string[]): Promise<string> {
    const [command = "", ...rest] = args;
    return await runTool(["lvm", command, "--devices", this.#device, ...rest], "", timeoutMs);
  }

  /** Rows of a report in LVM's JSON (lvmreport(7)), sizes in bytes. */
  async #report(kind: "pv" | "vg" | "lv", args: readonly string[]): Promise<Record<string, string>[]> {
    const form = ["--reportformat", "json", "--units", "b", "--nosuffix"];
    const text = await this.#run([args[0] ?? "", ...form, ...args.slice(1)]);
    const { report } = JSON.parse(text) as { report: Record<string, Record<string, string>[]>[] };
    return report[0]?.[kind] ?? [];
  }
}

function tagged(tags: readonly string[]): string[] {
  return tags.flatMap((tag) => ["--addtag", tag]);
}
