/** Pieces of text that several views of the dashboard show. */
import { bytes, span as durationText } from "../output.ts";
import { type Line, type Span, type Style, span } from "./line.ts";
import type { CapsuleModel, EventRow, Usage } from "./model.ts";

/** A sample comes each second: after so long without one something is wrong, though the connection stands. */
const silentMs = 5_000;

export function linkSpan({ link, machine }: CapsuleModel, now: number): Span {
  switch (link.state) {
    case "connecting":
      return span("connecting", "warn");
    case "down": {
      const wait = link.retryAt > now ? `, again in ${Math.ceil((link.retryAt - now) / 1000)}s` : ", trying";
      return span(`UNREACHABLE for ${durationText(now - link.since)}${wait}: ${link.reason}`, "bad");
    }
    case "up": {
      const silence = machine === undefined ? 0 : now - machine.heardAt;
      return silence < silentMs ? span("up", "good") : span(`SILENT for ${durationText(silence)}`, "bad");
    }
  }
}

export function phaseStyle(phase: string): Style {
  if (phase === "RUNNING") return "good";
  if (phase === "FAILED" || phase === "UNHEALTHY") return "bad";
  return phase === "STOPPED" ? "faint" : "warn";
}

/** As the verbs print them; "-" while there is none. */
export function usageTexts(usage: Usage | undefined, withLimit: boolean): { cpu: string; memory: string } {
  if (usage === undefined) return { cpu: "-", memory: "-" };
  const limit = withLimit && usage.memoryLimitBytes > 0 ? ` of ${bytes(usage.memoryLimitBytes)}` : "";
  return { cpu: `${(usage.cpuMillis / 10).toFixed(1)}%`, memory: `${bytes(usage.memoryBytes)}${limit}` };
}

export function sizes(used: number, size: number): string {
  return `${bytes(used)} of ${bytes(size)}`;
}

export function rate(bytesPerSecond: number): string {
  return `${bytes(Math.round(bytesPerSecond))}/s`;
}

export function eventLine({ at, object, text, isWarning }: EventRow, now: number): Line {
  const age = durationText(now - at).padStart(7);
  return [span(` ${age} ${object} `, isWarning ? "warn" : "plain"), span(text, isWarning ? "warn" : "plain")];
}
