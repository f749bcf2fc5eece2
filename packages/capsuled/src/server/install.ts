/** InstallService: of an installer; a capsule has it too, and says that it is none. */
import { create } from "@bufbuild/protobuf";
import { DiskContents, type InstallService, InstallTargetSchema } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { shortId } from "../auth/identity.ts";
import { CapsuleError } from "../errors.ts";
import type { Contents } from "../install/contents.ts";
import type { InstallEvent, Installer } from "../install/installer.ts";
import type { Target } from "../install/targets.ts";
import { checkedHostname } from "../system/machine.ts";
import { callOf } from "./call.ts";

/** How often progress is told while nothing else changes; in milliseconds. */
const tellMs = 200;

const kinds: Readonly<Record<Contents["kind"], DiskContents>> = {
  blank: DiskContents.BLANK,
  unfinished: DiskContents.UNFINISHED,
  capsule: DiskContents.CAPSULE,
  data: DiskContents.DATA,
};

export function noInstaller(): ServiceImpl<typeof InstallService> {
  const refuse = (): never => {
    const message =
      "This capsule runs from its disk and is no installer. Start the machine from a stick with the image to install it anew (docs/install.md).";
    throw new CapsuleError("precondition", message, { reason: "NOT_AN_INSTALLER" });
  };
  return { listTargets: refuse, install: refuse };
}

export function installService({
  installer,
  reboot,
}: {
  readonly installer: Installer;
  reboot(): Promise<void>;
}): ServiceImpl<typeof InstallService> {
  return {
    async listTargets() {
      return { targets: (await installer.targets()).map(messageOf) };
    },
    async *install({ path, hostname, reinstall, erase, noReboot }, context) {
      const { key, signal } = callOf(context);
      if (key === undefined) throw new CapsuleError("internal", "an install without a key passed the gate");
      if (hostname !== "") checkedHostname(hostname);
      let told: { readonly phase: string; readonly at: number } = { phase: "", at: 0 };
      for await (const event of installer.install({ path, reinstall, erase }, { key, hostname }, signal)) {
        if (event.kind === "progress" && event.phase === told.phase && Date.now() - told.at < tellMs) continue;
        if (event.kind === "progress") told = { phase: event.phase, at: Date.now() };
        yield eventOf(event, !noReboot);
        if (event.kind === "installed" && !noReboot) await reboot();
      }
    },
  };
}

function eventOf(event: InstallEvent, reboots: boolean) {
  if (event.kind === "progress") {
    const { phase, doneBytes, totalBytes } = event;
    const value = { phase, doneBytes: BigInt(doneBytes), totalBytes: BigInt(totalBytes) };
    return { event: { case: "progress" as const, value } };
  }
  const { path, capsuleId, fingerprint } = event;
  const value = { path, capsuleId, shortId: shortId(capsuleId), fingerprint, reboots };
  return { event: { case: "result" as const, value } };
}

function messageOf({ disk, contents, obstacle, confirmation }: Target) {
  const { path, sizeBytes, model, serial, transport } = disk;
  return create(InstallTargetSchema, {
    ...{ path, model, serial, transport, obstacle, confirmation },
    sizeBytes: BigInt(sizeBytes),
    contents: kinds[contents.kind],
    description: contents.description,
  });
}
