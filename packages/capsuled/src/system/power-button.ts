import { createReadStream, readdirSync } from "node:fs";
import type { Logger } from "pino";

/** input_event of 64-bit Linux (linux/input.h): two longs of time, then type, code and value. */
const eventBytes = 24;
const [typeAt, codeAt, valueAt] = [16, 18, 20];
const EV_KEY = 1;
const KEY_POWER = 116;

/** Calls `press` when the machine's power button is pressed. Buttons that come later are not seen. */
export function onPowerButton(press: () => void, log: Logger): void {
  let names: string[];
  try {
    names = readdirSync("/dev/input").filter((name) => name.startsWith("event"));
  } catch {
    return; // a machine without inputs
  }
  for (const name of names) {
    const stream = createReadStream(`/dev/input/${name}`, { highWaterMark: eventBytes });
    stream.on("data", (data) => {
      const event = data as Buffer;
      for (let at = 0; at + eventBytes <= event.length; at += eventBytes) {
        const isKey = event.readUInt16LE(at + typeAt) === EV_KEY && event.readUInt16LE(at + codeAt) === KEY_POWER;
        if (isKey && event.readInt32LE(at + valueAt) === 1) press();
      }
    });
    stream.on("error", (error) => log.debug({ err: error, name }, "an input cannot be read"));
  }
}
