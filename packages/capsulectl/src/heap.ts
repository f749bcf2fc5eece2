import { setFlagsFromString } from "node:v8";

/**
 * For commands that move much data. Buffers count against the limit of V8's heap, which follows from its size: with our
 * small one each few megabytes of a copy would have it collected. Set here and not on the command line, where any flag
 * of V8 makes Node compile its own modules anew at every start: measured 56 ms of processor time of `workload list`.
 */
export function letBuffersGrow(): void {
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  setFlagsFromString("--heap-growing-percent=1000");
}
