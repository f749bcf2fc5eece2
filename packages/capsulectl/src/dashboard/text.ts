/** Texts of capsules and workloads as cells of a terminal. Nothing that a terminal obeys gets past `plain`. */
import { stripVTControlCharacters } from "node:util";
import { eastAsianWidth } from "get-east-asian-width";

/** Of a text that somebody else wrote, so much is looked at: a log line may have 16 KiB, and a message any length. */
const mostCharacters = 1_000;
/** More marks on one letter than any script needs would climb over the lines above. */
const mostMarks = 2;

/** All that is no letter, digit, mark, sign or blank: control and format characters, lone surrogates, ends of lines. */
const steering = /[\p{C}\p{Zl}\p{Zp}]/u;
const mark = /[\p{Mn}\p{Me}]/u;
/** How terminals join them to the character before differs: they are left out, so that all count the same cells. */
const joining = /[\u{fe00}-\u{fe0f}\u{1f3fb}-\u{1f3ff}]/u;

/**
 * One line without anything that steers a terminal: the escape sequences of colours are taken out whole, every other
 * control or format character becomes a blank.
 */
export function plain(text: string): string {
  const short = stripVTControlCharacters(text.slice(0, mostCharacters)).normalize("NFC");
  const out: string[] = [];
  let marks = 0;
  for (const character of short) {
    if (joining.test(character)) continue;
    marks = mark.test(character) ? marks + 1 : 0;
    if (marks <= mostMarks) out.push(steering.test(character) ? " " : character);
  }
  // One piece of memory of its own: a part of a text would keep the whole of it.
  return out.join("");
}

/** Cells that a plain text takes. */
export function widthOf(text: string): number {
  let width = 0;
  for (const character of text) width += cellsOf(character);
  return width;
}

function cellsOf(character: string): number {
  const code = character.codePointAt(0) ?? 0;
  if (code >= 0x20 && code < 0x7f) return 1;
  return mark.test(character) ? 0 : eastAsianWidth(code);
}

/** A plain text in exactly `width` cells: filled with blanks at its end (or its start), or cut, which "…" tells. */
export function fit(text: string, width: number, align: "left" | "right" = "left"): string {
  if (width <= 0) return "";
  const own = widthOf(text);
  if (own <= width) return align === "left" ? text + " ".repeat(width - own) : " ".repeat(width - own) + text;
  let out = "";
  let used = 0;
  for (const character of text) {
    const cells = cellsOf(character);
    if (used + cells > width - 1) break;
    out += character;
    used += cells;
  }
  // A character of two cells may not have fitted in front of the "…".
  return `${out}…${" ".repeat(width - 1 - used)}`;
}

/** A plain text in the characters of ASCII, cell for cell: for a terminal whose encoding is not UTF-8. */
export function ascii(text: string): string {
  let out = "";
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    if (code < 0x7f) out += character;
    else out += (inAscii[character] ?? "?").repeat(cellsOf(character));
  }
  return out;
}

/** What the dashboard itself draws. */
const inAscii: Readonly<Record<string, string>> = {
  "…": "~",
  "─": "-",
  "·": ".",
  "↓": "v",
  "↑": "^",
  "▁": "_",
  "▂": ".",
  "▃": "-",
  "▄": "-",
  "▅": "=",
  "▆": "+",
  "▇": "*",
  "█": "#",
};
