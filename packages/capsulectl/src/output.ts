/** What goes to the terminal: results to stdout, everything else to stderr. */
import { type DescMessage, type MessageShape, toJson } from "@bufbuild/protobuf";
import { type Timestamp, timestampDate } from "@bufbuild/protobuf/wkt";
import { CliError, exitCode } from "./errors.ts";

export type Format = "table" | "wide" | "json" | "yaml";

export function checkedFormat(text: string): Format {
  if (text === "table" || text === "wide" || text === "json" || text === "yaml") return text;
  throw new CliError(`-o ${text}: one of table, wide, json and yaml is needed`, exitCode.usage);
}

export interface Column<Row> {
  readonly title: string;
  readonly value: (row: Row) => string;
  /** Only with -o wide. */
  readonly wide?: boolean;
  readonly right?: boolean;
}

/** Prints a message as JSON or YAML, or its rows as a table. */
export async function print<D extends DescMessage, Row>(
  format: Format,
  schema: D,
  message: MessageShape<D>,
  rows: readonly Row[],
  columns: readonly Column<Row>[],
): Promise<void> {
  if (format === "json" || format === "yaml") await printMessage(format, schema, message);
  else printTable(rows, columns, format === "wide");
}

/** The protobuf JSON of a message, with the fields that are not set. */
export async function printMessage<D extends DescMessage>(
  format: Format,
  schema: D,
  message: MessageShape<D>,
): Promise<void> {
  await printJson(format, toJson(schema, message, { alwaysEmitImplicit: true }));
}

/** Prints a value as indented JSON, or as YAML. */
export async function printJson(format: Format, value: unknown): Promise<void> {
  if (format === "yaml") process.stdout.write(escaped((await import("./yaml.ts")).stringify(value)));
  else process.stdout.write(`${escaped(JSON.stringify(value, undefined, 2))}\n`);
}

/** A value as JSON on one line, of a stream of them. */
export function sayJson(value: unknown): void {
  process.stdout.write(`${escaped(JSON.stringify(value))}\n`);
}

/** What a verb did to an object. */
export interface Done {
  readonly kind: string;
  readonly name: string;
  /** As a word after the name: "deleted". */
  readonly action: string;
}

/** Tells what was done: a line each, or as the results of an apply in JSON or YAML. */
export async function printDone(format: Format, results: readonly Done[]): Promise<void> {
  if (format === "json" || format === "yaml") await printJson(format, { results });
  else for (const { kind, name, action } of results) say(`${kind}/${name} ${action}`);
}

export function printTable<Row>(rows: readonly Row[], columns: readonly Column<Row>[], wide = false): void {
  say(tableOf(rows, columns, wide));
}

/** Its lines, for wherever they go. */
export function tableOf<Row>(rows: readonly Row[], columns: readonly Column<Row>[], wide = false): string {
  const shown = columns.filter((column) => wide || column.wide !== true);
  const cells = rows.map((row) => shown.map((column) => clean(column.value(row))));
  const widths = shown.map(({ title }, i) => Math.max(title.length, ...cells.map((line) => line[i]?.length ?? 0)));
  const line = (values: readonly string[]): string =>
    values
      .map((value, i) => (shown[i]?.right === true ? value.padStart(widths[i] ?? 0) : value.padEnd(widths[i] ?? 0)))
      .join("  ")
      .trimEnd();
  return [line(shown.map(({ title }) => title)), ...cells.map(line)].join("\n");
}

/** Lines to stdout. */
export function say(text: string): void {
  process.stdout.write(`${cleanLines(text)}\n`);
}

/** Lines to stderr: progress, notices, errors. */
export function note(text: string): void {
  process.stderr.write(`${cleanLines(text)}\n`);
}

/** One line: what comes from workloads must not steer the terminal. */
export function clean(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}]/gu, " ");
}

/** As clean, of several lines. */
export function cleanLines(text: string): string {
  return text.replace(/(?![\n\t])[\p{Cc}\p{Cf}]/gu, " ");
}

/** The same for JSON and quoted YAML, losing nothing. Their own escapes leave only what is above ASCII. */
function escaped(text: string): string {
  return text.replace(/(?![\n\t])[\p{Cc}\p{Cf}]/gu, (character) =>
    [...Array(character.length).keys()]
      .map((i) => `\\u${character.charCodeAt(i).toString(16).padStart(4, "0")}`)
      .join(""),
  );
}

export function bytes(count: bigint | number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let value = Number(count);
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** How long ago, in the two largest units at most: "3m12s", "5d". */
export function age(time: Timestamp | undefined): string {
  if (time === undefined) return "-";
  return span(Date.now() - timestampDate(time).getTime());
}

/** KEY=VALUE of options. Throws CliError. */
export function labelsOf(texts: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    texts.map((text) => {
      const at = text.indexOf("=");
      if (at < 1) throw new CliError(`--label ${text}: KEY=VALUE is needed`, exitCode.usage);
      return [text.slice(0, at), text.slice(at + 1)];
    }),
  );
}

export function span(ms: number): string {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s}s`;
  if (s < 3_600) return `${Math.floor(s / 60)}m${s % 60}s`;
  if (s < 86_400) return `${Math.floor(s / 3_600)}h${Math.floor((s % 3_600) / 60)}m`;
  return `${Math.floor(s / 86_400)}d${Math.floor((s % 86_400) / 3_600)}h`;
}
