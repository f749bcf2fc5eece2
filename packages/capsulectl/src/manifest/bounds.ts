import { Lexer } from "yaml";

/** No manifest needs a tenth of it. */
const maxDepth = 64;
/** Of all files of one call; four thousand workloads have about half of it. */
export const maxNodes = 250_000;

/** Tokens of the lexer that stand for no text: start of a document, of a scalar, early end of a flow, byte order mark. */
const [documentStart, scalarStart, flowEnd, byteOrderMark] = ["\u0002", "\u001f", "\u0018", "\ufeff"];

export interface Bounds {
  readonly nodes: number;
  /** Where the text goes beyond what a manifest may have. */
  readonly fault?: { readonly offset: number; readonly message: string };
}

/**
 * Looks at a text of YAML before it is parsed. The parser takes a kilobyte for each node, so one megabyte of "[" would
 * be one gigabyte: it is not called for such a text. The lexer holds one token at a time.
 */
export function boundsOf(text: string, nodesLeft: number): Bounds {
  let offset = 0;
  let nodes = 0;
  let flow = 0;
  /** Indicators of block collections in this line: "- - - a". */
  let block = 0;
  /** The columns at which the lines around this one began. */
  const columns: number[] = [];
  let lineStart = 0;
  let isScalar = false;
  for (const token of new Lexer().lex(text)) {
    const wasScalar = isScalar;
    isScalar = token === scalarStart;
    if (isScalar) nodes++;
    if (isScalar || token === documentStart || token === byteOrderMark) continue;
    if (token === flowEnd) {
      flow = 0;
      continue;
    }
    if (!wasScalar) {
      if (token === "[" || token === "{") flow++;
      else if (token === "]" || token === "}") flow--;
      else if (flow === 0 && (token === "-" || token === "?" || token === ":")) block++;
      if (/^[[{\-?:,"'&*]/.test(token)) nodes++;
    }
    if (flow === 0 && offset === lineStart && !/^\s*\n/.test(token))
      follow(columns, /^ *$/.test(token) ? token.length : 0);
    if (flow + Math.max(block, columns.length) > maxDepth)
      return { nodes, fault: { offset, message: "this is nested deeper than any manifest is" } };
    if (nodes > nodesLeft) return { nodes, fault: { offset, message: `there are more than ${maxNodes} values` } };
    offset += token.length;
    if (token.endsWith("\n")) {
      lineStart = offset;
      block = 0;
    }
  }
  return { nodes };
}

/** A line that begins at `column` is inside those lines before it that began further left. */
function follow(columns: number[], column: number): void {
  while (columns.length > 0 && (columns.at(-1) ?? 0) >= column) columns.pop();
  columns.push(column);
}
