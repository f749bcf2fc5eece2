import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { create } from "@bufbuild/protobuf";
import { Phase, VolumePhase, VolumeSpecSchema, VolumeStatusSchema, WorkloadStatusSchema } from "@capsule/api";
import { families, type MetricsFacts, metricsOf } from "./metrics.ts";

const usage = { sizeBytes: 1000, usedBytes: 910, metadataRatio: 0.25 };
const pool = { name: "default", backend: "lvm-thin", usage, promisedBytes: 2000, overcommitPercent: 300, message: "" };
const facts: MetricsFacts = {
  version: "1.2.3",
  mode: "qemu",
  hostname: 'na"me\\with\nall',
  usage: {
    busyNanos: 1_500_000_000n,
    cpus: 2,
    memoryUsedBytes: 5n,
    memoryBytes: 10n,
    load1: 0,
    networkReceiveBytes: 7n,
    networkTransmitBytes: 8n,
  },
  filesystems: [{ mountPath: "/perm", sizeBytes: 100n, usedBytes: 40n }],
  pools: [pool, { ...pool, name: "gone", usage: undefined }],
  volumes: [
    {
      name: "data",
      pool: "default",
      spec: create(VolumeSpecSchema, { name: "data", sizeBytes: 64n }),
      status: create(VolumeStatusSchema, { phase: VolumePhase.READY }),
    },
  ],
  workloads: [{ name: "web", status: create(WorkloadStatusSchema, { phase: Phase.RUNNING, restartCount: 3 }) }],
};

describe("metrics", () => {
  test("are in the text format, each with its help and type", async () => {
    const { text, contentType } = await metricsOf(facts);
    assert.match(contentType, /^text\/plain; version=0\.0\.4/);
    for (const { name, type } of families) {
      assert.match(text, new RegExp(`^# HELP ${name} \\S`, "m"));
      assert.match(text, new RegExp(`^# TYPE ${name} ${type}$`, "m"));
    }
    for (const line of text.split("\n").filter((one) => one !== "" && !one.startsWith("#")))
      assert.match(line, /^[a-z_]+(\{([a-z]+="(\\.|[^"\\])*",?)+\})? [0-9.e+-]+$/);
  });

  test("tell how full a pool is, and the threshold that it has reached", async () => {
    const { text } = await metricsOf(facts);
    assert.match(text, /^capsule_pool_used_bytes\{pool="default"\} 910$/m);
    assert.match(text, /^capsule_pool_level_percent\{pool="default"\} 90$/m);
    assert.match(text, /^capsule_pool_metadata_used_ratio\{pool="default"\} 0\.25$/m);
  });

  test("say of a pool that cannot be asked that it is down, and no number", async () => {
    const { text } = await metricsOf(facts);
    assert.match(text, /^capsule_pool_up\{pool="gone",backend="lvm-thin"\} 0$/m);
    assert.doesNotMatch(text, /^capsule_pool_size_bytes\{pool="gone"/m);
  });

  test("count every phase, those of nobody too", async () => {
    const { text } = await metricsOf(facts);
    assert.match(text, /^capsule_workloads\{phase="RUNNING"\} 1$/m);
    assert.match(text, /^capsule_workloads\{phase="FAILED"\} 0$/m);
    assert.match(text, /^capsule_volumes\{phase="MISSING"\} 0$/m);
    assert.match(text, /^capsule_workload_restarts\{workload="web"\} 3$/m);
  });

  test("escape what is in labels", async () => {
    assert.match((await metricsOf(facts)).text, /hostname="na\\"me\\\\with\\nall"/);
  });
});
