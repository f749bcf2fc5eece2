/** The suite of workloads with microVMs, emulated: in an emulated machine they would be emulated twice. */
process.env["CAPSULE_KIND"] = "MicroVM";
await import("../suite/workloads.test.ts");
