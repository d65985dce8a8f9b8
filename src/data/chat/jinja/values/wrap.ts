import { spend, step } from "../meter.ts";
import { SPACE } from "./strings.ts";
import { textLength, textSlice } from "./text.ts";
import { TemplateError } from "../errors.ts";

export interface WrapOptions {
  readonly width: number;
  /** Breaks words that are longer than a line. */
  readonly long: boolean;
  /** Breaks words behind their hyphens. */
  readonly hyphens: boolean;
}

/** Where a line may break: as Python's textwrap, which the documentation describes by words, hyphens and dashes. */
const LETTER = "[\\p{L}\\p{N}_!\"'&.,?]";
const CHUNKS = new RegExp(
  [
    "[\\t\\n\\v\\f\\r ]+",
    `(?<=${LETTER})-{2,}(?=[\\p{L}\\p{N}_])`,
    `[^\\t\\n\\v\\f\\r ]+?(?:-(?:(?<=[\\p{L}_]{2}-)|(?<=[\\p{L}_]-[\\p{L}_]-))(?=[\\p{L}_]-?[\\p{L}_])|(?=[\\t\\n\\v\\f\\r ]|$)|(?<=${LETTER})(?=-{2,}[\\p{L}\\p{N}_]))`,
  ].join("|"),
  "gu",
);
const WORDS = /[\t\n\v\f\r ]+|[^\t\n\v\f\r ]+/g;
const ONLY_SPACE = new RegExp(`^${SPACE}*$`);

/** The lines that Python's `textwrap.wrap` makes of one line. */
export function wrapText(text: string, { width, long, hyphens }: WrapOptions): string[] {
  if (width <= 0) throw new TemplateError(`invalid width ${width} (must be > 0)`);
  const chunks = (text.match(hyphens ? CHUNKS : WORDS) ?? []).reverse();
  const lines: string[] = [];
  while (chunks.length > 0) {
    step();
    let line: string[] = [];
    let length = 0;
    if (ONLY_SPACE.test(chunks.at(-1)!) && lines.length > 0) chunks.pop();
    while (chunks.length > 0 && length + textLength(chunks.at(-1)!) <= width) {
      length += textLength(chunks.at(-1)!);
      line.push(chunks.pop()!);
    }
    if (chunks.length > 0 && textLength(chunks.at(-1)!) > width) {
      const chunk = chunks.pop()!;
      if (long) {
        const room = breakAt(chunk, Math.max(1, width - length), hyphens);
        line.push(textSlice(chunk, 0, room));
        chunks.push(textSlice(chunk, room));
      } else if (line.length === 0) line.push(chunk);
      else chunks.push(chunk);
    }
    if (line.length > 0 && ONLY_SPACE.test(line.at(-1)!)) line = line.slice(0, -1);
    if (line.length > 0) {
      const joined = line.join("");
      spend(joined.length);
      lines.push(joined);
    }
  }
  return lines;
}

/** Where a word that is too long is broken: behind its last hyphen in the line, if anything else stands before. */
function breakAt(chunk: string, room: number, hyphens: boolean): number {
  if (!hyphens || textLength(chunk) <= room) return room;
  const hyphen = textSlice(chunk, 0, room).lastIndexOf("-");
  return hyphen > 0 && /[^-]/.test(chunk.slice(0, hyphen)) ? hyphen + 1 : room;
}
