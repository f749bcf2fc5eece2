/** What happens inside a volume that no workload uses: a shell, copies. */
import { posix } from "node:path";
import type { VolumeService } from "@capsule/api";
import type { ServiceImpl } from "@connectrpc/connect";
import { CapsuleError } from "../errors.ts";
import type { RuntimeDriver } from "../runtime/driver.ts";
import type { VolumeManager } from "../storage/volumes/manager.ts";
import { mountPath, type VolumeSessions } from "../storage/volumes/sessions.ts";
import { callOf } from "./call.ts";
import { splitFirst } from "./streams.ts";
import { checkedPath, execute, firstMustBeStart, statOf } from "./workload-session.ts";

type Session = Pick<
  ServiceImpl<typeof VolumeService>,
  "shell" | "statVolumePath" | "copyIntoVolume" | "copyOutOfVolume"
>;

export function volumeSession({
  manager,
  sessions,
  driver,
}: {
  readonly manager: VolumeManager;
  readonly sessions: VolumeSessions;
  readonly driver: RuntimeDriver;
}): Session {
  const copying = { what: "a copy", readOnly: true };
  return {
    async *shell(requests, context) {
      const { signal } = callOf(context);
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") throw firstMustBeStart();
      // With all capabilities it could write to the capsule's own root, which it has read-only.
      const start = { ...first.input.value, privileged: false };
      const options = { what: "a shell", readOnly: start.readOnly };
      const work = (uid: string): ReturnType<typeof execute> => execute(driver, uid, start, rest, signal);
      yield* sessions.run(manager.get(start.name), options, work);
    },
    async statVolumePath({ name, path }) {
      const place = inside(path);
      const found = await sessions.call(manager.get(name), copying, (uid) => driver.statPath(uid, place));
      if (found !== undefined) return statOf(found);
      throw new CapsuleError("notFound", `Volume "${name}" has no ${path}.`, { reason: "NO_PATH", metadata: { path } });
    },
    async copyIntoVolume(requests, context) {
      const { signal } = callOf(context);
      const { first, rest } = await splitFirst(requests);
      if (first?.input.case !== "start") throw firstMustBeStart();
      const { name, path, rename } = first.input.value;
      const place = inside(path);
      const data = (async function* () {
        for await (const { input } of rest) if (input.case === "data") yield input.value;
      })();
      const options = { rename: rename === "" ? undefined : rename };
      return await sessions.call(manager.get(name), { ...copying, readOnly: false }, (uid) =>
        driver.copyIn(uid, place, options, data, signal),
      );
    },
    async *copyOutOfVolume({ name, path }, context) {
      const { signal } = callOf(context);
      const place = inside(path);
      const work = async function* (uid: string): AsyncGenerator<{ data: Buffer }> {
        const stream = await driver.copyOut(uid, place, signal);
        for await (const data of stream as AsyncIterable<Buffer>) yield { data };
      };
      yield* sessions.run(manager.get(name), copying, work);
    },
  };
}

/** A path of the volume as it is in the container; `/.` at its end, which means what is in it, stays. */
function inside(path: string): string {
  const clean = posix.normalize(checkedPath(path));
  return `${mountPath}${clean === "/" ? "/." : clean}${/\/\.$/.test(path) && clean !== "/" ? "/." : ""}`;
}
