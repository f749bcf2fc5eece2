/** XFS (mkfs.xfs(8)), for pools only. */
import { runTool } from "../../tool.ts";

/** mkfs.xfs refuses less. */
export const minXfsBytes = 300 * 1024 ** 2;

/** Sharing of blocks between files is what a pool is made of; `-f` because the file is ours and new. */
export async function formatXfs(file: string): Promise<void> {
  await runTool(["mkfs.xfs", "-q", "-f", "-m", "reflink=1", "-L", "capsule-pool", file], "", 300_000);
}
