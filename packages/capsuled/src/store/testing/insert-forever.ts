// Run by store.test.ts as a process of its own, to be killed: inserts workloads and prints the count of each that the
// store acknowledged. Ends by itself after 10,000.

import { create } from "@bufbuild/protobuf";
import { WorkloadSpecSchema } from "@capsule/api";
import { Store } from "../store.ts";

const store = new Store(process.argv[2] ?? "");
for (let count = 1; count <= 10_000; count++) {
  store.workloads.insert(create(WorkloadSpecSchema, { name: `w-${count}` }), new Date());
  process.stdout.write(`${count}\n`);
}
