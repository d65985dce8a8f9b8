/**
 * Makes `train.jsonl` and `valid.jsonl`: verses of the Psalms and the Proverbs, which say a thing and then say it again or its opposite, each
 * with its first half as the anchor and its second as what belongs to it.
 *
 *     bun recipes/verses/make.ts [FOLDER]
 */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { readBible } from "../base/text.ts";

/** Chapters in front of the Psalms, and the end of the Proverbs. */
const [FIRST, END] = [478, 659];
/** Characters of a half, at least and at most. */
const [SHORTEST, LONGEST] = [24, 110];
/** Shares of the verses that are taken, and of these held out. */
const [TAKEN, HELD_OUT] = [1, 0.1];

export interface Halves {
  readonly anchor: string;
  readonly positive: string;
}

/** A number from 0 to 1 by which texts are drawn: their SHA-256, read as a fraction. */
const shareOf = (text: string): number =>
  parseInt(new Bun.CryptoHasher("sha256").update(text).digest("hex").slice(0, 8), 16) / 2 ** 32;

/** Halves of the verses that have two, by what they are for. */
export function halves(): { readonly train: readonly Halves[]; readonly valid: readonly Halves[] } {
  const [train, valid]: [Halves[], Halves[]] = [[], []];
  for (const verse of readBible().slice(FIRST, END).flat()) {
    const [, anchor, positive] = /^([^:;]+)[:;] ([^:;]+)$/.exec(verse) ?? [];
    if (anchor === undefined || positive === undefined) continue;
    const isOne = [anchor, positive].every(({ length }) => length >= SHORTEST && length <= LONGEST);
    const share = shareOf(verse);
    if (isOne && share < TAKEN) (share < TAKEN * HELD_OUT ? valid : train).push({ anchor, positive });
  }
  return { train, valid };
}

if (import.meta.main) {
  const folder = process.argv[2] ?? import.meta.dir;
  for (const [split, rows] of Object.entries(halves()))
    writeFileSync(join(folder, `${split}.jsonl`), rows.map((row: Halves) => `${JSON.stringify(row)}\n`).join(""));
}
