/** LVM2 (lvm(8)), on one physical volume only: other disks of the machine are none of its business. */
import { CapsuleError } from "../../errors.ts";
import { runTool } from "../../tool.ts";
import { groupName, type LogicalVolume, permName, poolName, wholeTag } from "./plan.ts";

/** A disk that answers slowly is not a fault yet. */
const timeoutMs = 120_000;

export class Lvm {
  readonly #device: string;

  constructor(device: string) {
    this.#device = device;
  }

  async physicalVolume(): Promise<{ group: string | undefined; sizeBytes: number; deviceBytes: number }> {
    const [pv] = await this.#report("pv", ["pvs", "-o", "vg_name,pv_size,dev_size", this.#device]);
    if (pv === undefined) throw new CapsuleError("internal", `LVM does not know ${this.#device}`);
    const group = pv["vg_name"] ?? "";
    return {
      group: group === "" ? undefined : group,
      sizeBytes: Number(pv["pv_size"]),
      deviceBytes: Number(pv["dev_size"]),
    };
  }

  async group(): Promise<{ sizeBytes: number; freeBytes: number }> {
    const [vg] = await this.#report("vg", ["vgs", "-o", "vg_size,vg_free", groupName]);
    if (vg === undefined) throw new CapsuleError("internal", `LVM does not know the volume group ${groupName}`);
    return { sizeBytes: Number(vg["vg_size"]), freeBytes: Number(vg["vg_free"]) };
  }

  async volumes(): Promise<(LogicalVolume & { active: boolean })[]> {
    const rows = await this.#report("lv", ["lvs", "-o", "lv_name,lv_size,lv_tags,pool_lv,lv_active", groupName]);
    return rows.map((row) => ({
      name: row["lv_name"] ?? "",
      sizeBytes: Number(row["lv_size"]),
      tags: (row["lv_tags"] ?? "").split(",").filter((tag) => tag !== ""),
      isThin: (row["pool_lv"] ?? "") !== "",
      active: row["lv_active"] === "active",
    }));
  }

  /** How full the thin pool is; undefined while there is none. */
  async poolFill(): Promise<{ sizeBytes: number; dataPercent: number; metadataPercent: number } | undefined> {
    const columns = "lv_name,lv_size,data_percent,metadata_percent";
    const rows = await this.#report("lv", ["lvs", "-o", columns, groupName]);
    const pool = rows.find((row) => row["lv_name"] === poolName);
    if (pool === undefined) return undefined;
    return {
      sizeBytes: Number(pool["lv_size"]),
      dataPercent: Number(pool["data_percent"]),
      metadataPercent: Number(pool["metadata_percent"]),
    };
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

  async activate(): Promise<void> {
    await this.#run(["vgchange", "--activate", "y", groupName]);
  }

  async createPerm(sizeBytes: number): Promise<void> {
    await this.#run(["lvcreate", "--yes", "--wipesignatures", "y", "-n", permName, "-L", `${sizeBytes}b`, groupName]);
  }

  async growPerm(sizeBytes: number): Promise<void> {
    await this.#run(["lvextend", "-L", `${sizeBytes}b`, `${groupName}/${permName}`]);
  }

  async createPool(sizeBytes: number, metadataBytes: number): Promise<void> {
    const sizes = ["-L", `${sizeBytes}b`, "--poolmetadatasize", `${metadataBytes}b`];
    await this.#run(["lvcreate", "--yes", "--type", "thin-pool", "-n", poolName, ...sizes, groupName]);
  }

  /** Says of a volume that it is whole. */
  async mark(name: string): Promise<void> {
    await this.#run(["lvchange", "--addtag", wholeTag, `${groupName}/${name}`]);
  }

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
