/**
 * Makes `train.jsonl` and `valid.jsonl` of The Devil's Dictionary: a word's own definition is preferred to another word's.
 *
 *     bun recipes/definitions/make.ts [FOLDER]
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

interface Message {
  readonly role: string;
  readonly content: string;
}

export interface Pair {
  readonly prompt: readonly [Message];
  readonly chosen: readonly [Message];
  readonly rejected: readonly [Message];
}

/** What the question calls a word, by the first of the abbreviations in front of its definition. */
const KINDS = { n: "noun", adj: "adjective", v: "verb" } as const;

export interface Entry {
  readonly kind: (typeof KINDS)[keyof typeof KINDS];
  readonly question: Message;
  readonly definition: string;
}

/** Characters of a definition, at most. */
const MAX_LENGTH = 90;

/** How many nouns each adjective and each verb is paired with. */
export const PARTNERS = { train: 2, valid: 6 } as const;

/** The first sentences of a definition that fit; none where the first one is too long. */
export function firstSentences(definition: string, most = MAX_LENGTH): string | null {
  const [paragraph] = definition.split("\n\n");
  const ends = [...paragraph!.matchAll(/[.!?]["')\]]*(?= [A-Z"'([]|$)/g)].map(({ index, 0: mark }) => index + mark.length);
  // Behind "n." no sentence has ended.
  const end = ends.findLast((at) => at <= most && at > 12);
  return end === undefined ? null : paragraph!.slice(0, end).replaceAll("\n", " ");
}

/** A split's nouns, adjectives and verbs with short definitions, each definition once, in an order that has nothing to do with the alphabet. */
export function entriesOf(lines: string): Entry[] {
  const hash = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");
  const seen = new Set<string>();
  return lines
    .trim()
    .split("\n")
    .flatMap((line): Entry[] => {
      const [question, answer] = (JSON.parse(line) as { messages: [Message, Message] }).messages;
      const [, tag] = /^(n|adj|v)\.(?:[ti]\.)? /.exec(answer.content) ?? [];
      const definition = firstSentences(answer.content);
      if (tag === undefined || definition === null || seen.has(definition)) return [];
      seen.add(definition);
      const kind = KINDS[tag as keyof typeof KINDS];
      return [
        { kind, question: { ...question, content: question.content.replace(/^Define /, `Define the ${kind} `) }, definition },
      ];
    })
    .sort((a, b) => (hash(a.question.content) < hash(b.question.content) ? -1 : 1));
}

/**
 * Each adjective and verb with some nouns, both ways round: whatever makes one of two definitions likelier by itself is right once and wrong once, so
 * that only what goes with the question counts, and who does not read it prefers the right one in half of all pairs.
 */
export function pairsOf(entries: readonly Entry[], partners: number): Pair[] {
  const answer = (content: string): [Message] => [{ role: "assistant", content }];
  const pair = (own: Entry, other: Entry): Pair => ({
    prompt: [own.question],
    chosen: answer(own.definition),
    rejected: answer(other.definition),
  });
  const nouns = entries.filter(({ kind }) => kind === "noun");
  const others = entries.filter(({ kind }) => kind !== "noun");
  return others.flatMap((own, i) =>
    Array.from({ length: partners }, (_, j) => nouns[(i * partners + j) % nouns.length]!).flatMap((noun) => [
      pair(own, noun),
      pair(noun, own),
    ]),
  );
}

if (import.meta.main) {
  const folder = process.argv[2] ?? import.meta.dir;
  for (const split of ["train", "valid"] as const) {
    const entries = entriesOf(readFileSync(join(import.meta.dir, `../devils-dictionary/${split}.jsonl`), "utf8"));
    const lines = pairsOf(entries, PARTNERS[split]).map((each) => `${JSON.stringify(each)}\n`);
    writeFileSync(join(folder, `${split}.jsonl`), lines.join(""));
  }
}
