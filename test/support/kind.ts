/** The kind of the workloads of a suite that is for both: $CAPSULE_KIND, containers when it is not set. */

export const isMachine = process.env["CAPSULE_KIND"] === "MicroVM";
export const kind = isMachine ? "MicroVM" : "Container";
/** Of a manifest. */
export const part = isMachine ? "microVm" : "container";
