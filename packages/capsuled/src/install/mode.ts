/** Whether this boot is one of an installer or of a capsule. Pure. */

export interface BootFacts {
  /** What the boot loader was told (`capsule_mode` of its environment block); undefined when nothing. */
  readonly wanted: "installer" | "capsule" | undefined;
  /** The boot disk is meant to be taken out of the machine: on USB, or with a removable medium. */
  readonly isPortable: boolean;
  /** Somebody runs a capsule from it: its PERM is a physical volume. */
  readonly isBegun: boolean;
  /** The machine has a disk that could be installed to, whatever is on it. */
  readonly hasTarget: boolean;
}

export type BootMode = "installer" | "capsule";

export function modeOf({ wanted, isPortable, isBegun, hasTarget }: BootFacts): BootMode {
  if (wanted !== undefined) return wanted;
  return isPortable && !isBegun && hasTarget ? "installer" : "capsule";
}

/** From the kernel's command line. */
export function wantedMode(commandLine: string): BootFacts["wanted"] {
  const word = /(?:^|\s)capsule\.mode=(installer|capsule)(?=\s|$)/.exec(commandLine)?.[1];
  return word === "installer" || word === "capsule" ? word : undefined;
}
