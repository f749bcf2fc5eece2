/** nft(8): loads rulesets. */
import { runTool } from "../tool.ts";

/**
 * Loads a script in one transaction: all of it or, when this throws CapsuleError `internal`, nothing. `prefix` is a
 * command to run nft by, such as nsenter with its options.
 */
export async function loadRuleset(script: string, prefix: readonly string[] = []): Promise<void> {
  await runTool([...prefix, "nft", "-f", "-"], script);
}
