/**
 * Makes `train.jsonl` and `valid.jsonl`: definitions of The Devil's Dictionary without the abbreviation in front of them, which says what part of
 * speech the word is; that is the label.
 *
 *     bun recipes/parts-of-speech/make.ts [FOLDER]
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** Characters of a definition, at most. */
const MAX_LENGTH = 160;

/** The share of nouns that is taken: six of seven words are one. */
const NOUNS = 1 / 3;

const PARTS: Readonly<Record<string, string>> = { n: "noun", adj: "adjective", v: "verb", vt: "verb", vi: "verb" };

export interface Labelled {
  readonly text: string;
  readonly label: string;
}

/** A number from 0 to 1 by which texts are drawn: their SHA-256, read as a fraction. */
const shareOf = (text: string): number =>
  parseInt(new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 8), 16) / 2 ** 32;

/** The definitions of a file of the dictionary whose part of speech is one of the three. */
export function labelled(lines: string): Labelled[] {
  return lines
    .trim()
    .split("\n")
    .flatMap((line) => {
      const { messages } = JSON.parse(line) as { messages: readonly { readonly content: string }[] };
      const [, mark, rest] = /^((?:[a-z]+\.\s?)+)\s*(.*)$/s.exec(messages[1]!.content) ?? [];
      const label = PARTS[(mark ?? "").replaceAll(/[.\s]/g, "")];
      const text = (rest ?? "").split("\n")[0]!.slice(0, MAX_LENGTH);
      if (label === undefined || text === "") return [];
      return label === "noun" && shareOf(text) >= NOUNS ? [] : [{ text, label }];
    });
}

if (import.meta.main) {
  const folder = process.argv[2] ?? import.meta.dir;
  for (const split of ["train", "valid"]) {
    const rows = labelled(readFileSync(join(import.meta.dir, `../devils-dictionary/${split}.jsonl`), "utf8"));
    writeFileSync(join(folder, `${split}.jsonl`), rows.map((row) => `${JSON.stringify(row)}\n`).join(""));
  }
}
