/**
 * Makes `train.jsonl` and `valid.jsonl`: to each short definition of The Devil's Dictionary the answer that the bundled base model gives by
 * itself, which is the rejected one. The same files come out wherever the base model is the same.
 *
 *     bun recipes/preferences/make.ts [FOLDER]
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { generate } from "../../src/library/generate.ts";

/** Characters of a definition, and pairs of each split, at most. */
const MAX_LENGTH = 160;
const SPLITS = { train: 300, valid: 50 } as const;

interface Message {
  readonly role: string;
  readonly content: string;
}

export interface Pair {
  readonly prompt: readonly Message[];
  readonly chosen: readonly Message[];
  readonly rejected: readonly Message[];
}

/** Questions with short answers, in the order of their hashes, which has nothing to do with the alphabet. */
export function shortEntries(lines: string, most: number): (readonly [question: Message, answer: Message])[] {
  const hash = (text: string) => new Bun.CryptoHasher("sha256").update(text).digest("hex");
  return lines
    .trim()
    .split("\n")
    .map((line) => (JSON.parse(line) as { messages: [Message, Message] }).messages)
    .filter(([, answer]) => answer.content.length <= MAX_LENGTH)
    .sort(([a], [b]) => (hash(a.content) < hash(b.content) ? -1 : 1))
    .slice(0, most);
}

/** What the base model answers by itself: the same for a question at the same place. */
export async function answersOfBase(questions: readonly Message[]): Promise<string[]> {
  const { answers } = await generate({
    model: join(import.meta.dir, "../base/model"),
    prompts: questions.map((question) => [{ ...question }]),
    maxNewTokens: 48,
    temperature: 0.8,
    seed: 1,
    device: "wasm",
  });
  return answers.map(({ text }) => text.trim() || "-");
}

async function makePairs(split: keyof typeof SPLITS): Promise<Pair[]> {
  const entries = shortEntries(readFileSync(join(import.meta.dir, `../devils-dictionary/${split}.jsonl`), "utf8"), SPLITS[split]);
  const rejected = await answersOfBase(entries.map(([question]) => question));
  return entries.map(([question, answer], i) => ({
    prompt: [question],
    chosen: [answer],
    rejected: [{ role: "assistant", content: rejected[i]! }],
  }));
}

if (import.meta.main) {
  const folder = process.argv[2] ?? import.meta.dir;
  for (const split of ["train", "valid"] as const) {
    const lines = (await makePairs(split)).map((pair) => `${JSON.stringify(pair)}\n`);
    writeFileSync(join(folder, `${split}.jsonl`), lines.join(""));
  }
}
