/** Text in drawings: escaped, measured by an estimate that no common font exceeds, cut and wrapped by it. */

/** Widths of characters in em: no less than those of DejaVu Sans, the widest of the usual interface fonts. */
const WIDTHS: readonly (readonly [characters: string, em: number])[] = [
  ["ijl'", 0.3],
  [" ,.:;/\\|-I", 0.375],
  ['!()[]frtJ"', 0.5],
  ["+=<>~^#w", 0.84],
  ["mMW%@", 1],
];
const OTHER = 0.64;
const CAPITAL = 0.79;
const BEYOND_ASCII = 1.05;
const PICTOGRAM = 1.4;
/** How much wider a character is in bold, at most. */
const BOLD = 1.15;

function em(character: string): number {
  const code = character.codePointAt(0)!;
  if (code > 0xffff) return PICTOGRAM;
  if (code > 126) return BEYOND_ASCII;
  const row = WIDTHS.find(([characters]) => characters.includes(character));
  return row?.[1] ?? (/[A-Z&]/.test(character) ? CAPITAL : OTHER);
}

export interface Font {
  /** Pixels. */
  readonly size: number;
  readonly bold?: boolean;
}

/** Estimates the width of a text in pixels; it is no narrower than what common fonts show. */
export function textWidth(text: string, { size, bold = false }: Font): number {
  let width = 0;
  for (const character of text) width += em(character);
  return width * size * (bold ? BOLD : 1);
}

/** Cuts a text, with an ellipsis at its end, so that it is no wider than `width` pixels. */
export function fitText(text: string, width: number, font: Font): string {
  if (textWidth(text, font) <= width) return text;
  const characters = [...text];
  let used = textWidth("…", font);
  let kept = 0;
  for (; kept < characters.length; kept++) {
    used += textWidth(characters[kept]!, font);
    if (used > width) break;
  }
  return kept === 0 && textWidth("…", font) > width ? "" : `${characters.slice(0, kept).join("").trimEnd()}…`;
}

/** Breaks a text between words into at most `most` lines of `width` pixels; what is too long is cut. */
export function wrapText(text: string, width: number, font: Font, most: number): string[] {
  const lines: string[] = [];
  let line = "";
  const words = text.split(/\s+/).filter((word) => word !== "");
  for (const [i, word] of words.entries()) {
    const longer = line === "" ? word : `${line} ${word}`;
    if (line === "" || textWidth(longer, font) <= width) {
      line = longer;
    } else if (lines.length === most - 1) {
      line = [line, ...words.slice(i)].join(" ");
      break;
    } else {
      lines.push(fitText(line, width, font));
      line = word;
    }
  }
  return [...lines, fitText(line, width, font)].filter((each) => each !== "");
}

const ENTITIES: Readonly<Record<string, string>> = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/** Escapes a text for XML and HTML, between tags and within quotes. Characters that XML does not have become U+FFFD. */
export function escapeMarkup(text: string): string {
  return (
    text
      .toWellFormed()
      // eslint-disable-next-line no-control-regex -- control characters are what is looked for
      .replaceAll(/[\u0000-\u0008\u000b\u000c\u000e-\u001f\ufffe\uffff]/g, "\ufffd")
      .replaceAll(/[&<>"']/g, (character) => ENTITIES[character]!)
  );
}
