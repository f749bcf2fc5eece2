import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { kernelFault, kernelHeadBytes } from "./kernel-format.ts";

/** An ELF header with one program header for each type and address. */
function elf(machine: number, headers: readonly (readonly [number, bigint])[]): Buffer {
  const head = Buffer.alloc(kernelHeadBytes);
  Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]).copy(head);
  head.writeUInt16LE(machine, 18);
  head.writeBigUInt64LE(64n, 32);
  head.writeUInt16LE(56, 54);
  head.writeUInt16LE(headers.length, 56);
  for (const [i, [type, address]] of headers.entries()) {
    head.writeUInt32LE(type, 64 + i * 56);
    head.writeBigUInt64LE(address, 64 + i * 56 + 16);
  }
  return head;
}

function bzImage(protocol: number): Buffer {
  const head = Buffer.alloc(kernelHeadBytes);
  head.write("HdrS", 0x202, "latin1");
  head.writeUInt16LE(protocol, 0x206);
  return head;
}

const high = 0xffffffff81000000n;

test("kernels are taken", () => {
  assert.equal(kernelFault(bzImage(0x020f)), undefined);
  assert.equal(
    kernelFault(
      elf(62, [
        [1, high],
        [4, high],
      ]),
    ),
    undefined,
  );
});

test("a monitor that unpacks nothing takes no packed kernel", () => {
  assert.match(kernelFault(bzImage(0x020f), true) ?? "", /bzImage/);
  assert.equal(
    kernelFault(
      elf(62, [
        [1, high],
        [4, high],
      ]),
      true,
    ),
    undefined,
  );
});

test("what is none is told", () => {
  assert.match(kernelFault(Buffer.alloc(0)) ?? "", /no kernel/);
  assert.match(kernelFault(Buffer.from("#!/bin/sh\n")) ?? "", /no kernel/);
  assert.match(kernelFault(Buffer.from([0x7f, 0x45, 0x4c, 0x46])) ?? "", /no kernel/);
  assert.match(kernelFault(bzImage(0x0203)) ?? "", /older/);
  assert.match(kernelFault(elf(183, [[1, high]])) ?? "", /x86-64/);
  assert.match(kernelFault(elf(62, [[1, high]])) ?? "", /PVH/);
  assert.match(kernelFault(readFileSync(process.execPath).subarray(0, kernelHeadBytes)) ?? "", /program/);
});
