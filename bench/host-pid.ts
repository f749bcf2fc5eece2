import { readFileSync } from "node:fs";

/** The pid on this host of a process in a namespace capsule, by the second of its NSpid (proc(5)). */
export function hostPid(initPid: number, inside: number): number | undefined {
  const visit = (pid: number): number | undefined => {
    let status: string;
    let children: string;
    try {
      status = readFileSync(`/proc/${pid}/status`, "utf8");
      children = readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8");
    } catch {
      return undefined; // ended meanwhile
    }
    const ids = /^NSpid:\s+(.*)$/m.exec(status)?.[1]?.split(/\s+/) ?? [];
    if (Number(ids[1]) === inside) return pid;
    for (const child of children.trim().split(" ")) {
      const found = child === "" ? undefined : visit(Number(child));
      if (found !== undefined) return found;
    }
    return undefined;
  };
  return visit(initPid);
}
