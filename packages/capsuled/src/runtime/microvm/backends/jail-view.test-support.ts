/** What a program sees from its jail, as far as its backend has said (capsule-init/src/jail/root.rs makes it so). */
import type { Program } from "./backend.ts";

/** How it can open a path; undefined when there is nothing. */
export function accessTo(program: Program, path: string): "read" | "write" | undefined {
  const node = program.nodes.find(({ at }) => at === path);
  if (node !== undefined) return node.readOnly ? "read" : "write";
  if (program.devices.includes(path)) return "write";
  if (program.files?.some(({ at }) => at === path) === true) return "read";
  return program.readOnly.some((dir) => path.startsWith(`${dir}/`)) ? "read" : undefined;
}
