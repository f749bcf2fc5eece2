import assert from "node:assert/strict";
import { test } from "node:test";
import { DiskContents } from "@capsule/api";
import { CliError } from "../errors.ts";
import { checkTarget, chooseTarget } from "./choose.ts";

const aTarget = (
  path: string,
  changes: { obstacle?: string; confirmation?: string; contents?: DiskContents } = {},
) => ({
  ...{ path, contents: DiskContents.BLANK, description: "blank", obstacle: "", confirmation: "" },
  ...changes,
});
const stick = aTarget("/dev/sdb", { obstacle: "the installer runs from it" });
const full = aTarget("/dev/sdc", { confirmation: "S3", contents: DiskContents.DATA });

const refused = (act: () => unknown, wanted: RegExp): void =>
  assert.throws(act, (error) => error instanceof CliError && wanted.test(error.message));

test("the only blank disk is meant; of several, or none, one must be named", () => {
  assert.equal(chooseTarget([stick, aTarget("/dev/sda"), full], undefined).path, "/dev/sda");
  refused(() => chooseTarget([aTarget("/dev/sda"), aTarget("/dev/nvme0n1")], undefined), /2 blank disks.*--disk/);
  refused(() => chooseTarget([stick, full], undefined), /No disk is blank.*\/dev\/sdc/);
  refused(() => chooseTarget([stick], undefined), /no disk that can be installed to/);
});

test("one is named by its path or its name", () => {
  for (const name of ["/dev/sdc", "sdc"]) assert.equal(chooseTarget([stick, full], name), full);
  refused(() => chooseTarget([stick, full], "sdd"), /no disk sdd/);
});

test("what the installer would refuse is refused before anybody is asked", () => {
  refused(() => checkTarget(stick, false), /installer runs from it/);
  const capsule = aTarget("/dev/sda", { contents: DiskContents.CAPSULE, confirmation: "S1" });
  refused(() => checkTarget(capsule, false), /--reinstall/);
  checkTarget(capsule, true);
  checkTarget(full, false);
});
