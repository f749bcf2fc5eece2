/** CapsuleService, debug sessions: their beginning and their end are in the audit log, with what was run and its exit code. */
import type { CapsuleService } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import type { RuntimeDriver } from "../runtime/driver.ts";
import { shellOf, toolsImage } from "../system/debug/instance.ts";
import type { DebugSessions } from "../system/debug/sessions.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";
import { execute, firstMustBeStart } from "./workload-session.ts";

export interface DebugServiceOptions {
  readonly sessions: DebugSessions;
  readonly driver: RuntimeDriver;
}

export function debugService({
  sessions,
  driver,
}: DebugServiceOptions): Pick<ServiceImpl<typeof CapsuleService>, "debug" | "endDebug"> {
  return {
    async *debug(requests, context) {
      const { signal, audit } = callOf(context);
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") throw firstMustBeStart();
      const { image, keep } = first.input.value;
      const asked = first.input.value.command;
      const command = asked.length > 0 ? asked : shellOf(image);
      // The container has all rights already; who runs in it is root.
      const start = { ...first.input.value, command, privileged: true, user: "" };
      audit.objects.push(`image ${image || toolsImage}${keep ? ", kept" : ""}`, command.join(" "));
      audit.now("begun");
      // Stands if the session does not come to its own end.
      audit.result = "broken off";
      for await (const output of sessions.run({ image, keep }, (uid) => execute(driver, uid, start, rest, signal))) {
        if (output.output.case === "exitCode") audit.result = `exit ${output.output.value}`;
        yield output;
      }
    },
    async endDebug() {
      return { ended: await sessions.end() };
    },
  };
}
