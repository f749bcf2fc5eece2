/** Firecracker. Not written yet: it is refused with the reason. */
import { CapsuleError } from "../../../errors.ts";
import type { MicroVmBackend, Program } from "./backend.ts";

const refused = "Firecracker is not in this image";

export class FirecrackerBackend implements MicroVmBackend {
  readonly name = "firecracker";

  unavailable(): string {
    return refused;
  }

  overheadBytes(): number {
    return 0;
  }

  programs(): readonly Program[] {
    throw new CapsuleError("precondition", refused);
  }

  async boot(): Promise<void> {
    throw new CapsuleError("precondition", refused);
  }

  async pause(): Promise<void> {
    throw new CapsuleError("precondition", refused);
  }

  async resume(): Promise<void> {
    throw new CapsuleError("precondition", refused);
  }

  async isPaused(): Promise<boolean> {
    return false;
  }
}
