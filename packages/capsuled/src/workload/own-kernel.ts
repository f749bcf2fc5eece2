/** A microVM that boots its own kernel from volumes, as its spec says it. Pure. */
import { MicroVmBackend, type MicroVmSpec, type WorkloadSpec } from "@capsule/api";
import { LABEL } from "./faults.ts";

/** A file in a volume. */
export interface VolumePath {
  readonly volume: string;
  /** Below the volume's root, without empty parts, "." and "..". */
  readonly path: string;
}

export interface OwnKernel {
  readonly kernel: VolumePath;
  /** Its monitor boots no bzImage. */
  readonly onlyElf: boolean;
  readonly initramfs: VolumePath | undefined;
  /** Name of the volume that is its first disk. */
  readonly root: string;
  readonly args: readonly string[];
}

/** From "VOLUME/PATH"; undefined for anything else. */
export function volumePath(text: string): VolumePath | undefined {
  const slash = text.indexOf("/");
  const volume = text.slice(0, Math.max(0, slash));
  const path = text.slice(slash + 1);
  const parts = path.split("/");
  const isClean = path.length <= 1_024 && !path.includes("\0") && !parts.some((one) => ["", ".", ".."].includes(one));
  return LABEL.test(volume) && isClean ? { volume, path } : undefined;
}

/** Of a valid spec. Undefined for one that boots an image. */
export function ownKernelOf({ kind }: WorkloadSpec): OwnKernel | undefined {
  return kind.case === "microVm" ? fromMachine(kind.value) : undefined;
}

function fromMachine({
  kernelPath,
  initramfsPath,
  rootfsPath,
  kernelArgs,
  backend,
}: MicroVmSpec): OwnKernel | undefined {
  const kernel = volumePath(kernelPath);
  if (kernel === undefined) return undefined;
  const args = kernelArgs.split(" ").filter((one) => one !== "");
  const onlyElf = backend === MicroVmBackend.FIRECRACKER;
  return { kernel, onlyElf, initramfs: volumePath(initramfsPath), root: rootfsPath, args };
}
