/** A line of the screen: pieces of text, each in a style. */
import { ascii, fit, widthOf } from "./text.ts";

export type Style = "plain" | "strong" | "faint" | "good" | "warn" | "bad" | "bar" | "graph";

export interface Span {
  readonly text: string;
  readonly style: Style;
}

export type Line = readonly Span[];

export function span(text: string, style: Style = "plain"): Span {
  return { text, style };
}

/** Spans in exactly `width` cells: cut, or filled in the style `fill`. */
export function lineOf(width: number, spans: readonly Span[], fill: Style = "plain"): Line {
  const line: Span[] = [];
  let left = width;
  for (const { text, style } of spans) {
    const own = widthOf(text);
    if (own > left) {
      if (left > 0) line.push(span(fit(text, left), style));
      return line;
    }
    line.push({ text, style });
    left -= own;
  }
  if (left > 0) line.push(span(" ".repeat(left), fill));
  return line;
}

/** How a terminal shows lines. */
export interface Look {
  readonly colours: boolean;
  /** Whether its encoding is UTF-8. */
  readonly unicode: boolean;
}

/** Select Graphic Rendition (ECMA-48, 8.3.117), without and with colours. */
const renditions: Readonly<Record<Style, readonly [string, string]>> = {
  plain: ["", ""],
  strong: ["1", "1"],
  faint: ["2", "2"],
  good: ["", "32"],
  warn: ["", "33"],
  bad: ["1", "1;31"],
  bar: ["7", "7"],
  graph: ["", "36"],
};

/** For a terminal: what steers it is added here and nowhere else. */
export function rendered(line: Line, { colours, unicode }: Look): string {
  return line
    .map(({ text, style }) => {
      const rendition = renditions[style][colours ? 1 : 0];
      // Every text in the model is plain already; a slip there must not become an escape sequence here.
      const shown = (unicode ? text : ascii(text)).replace(/\p{Cc}/gu, " ");
      return rendition === "" ? shown : `\u001b[${rendition}m${shown}\u001b[0m`;
    })
    .join("");
}

export function textOf(line: Line): string {
  return line.map(({ text }) => text).join("");
}
