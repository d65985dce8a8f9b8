import { UserError } from "../../base/errors.ts";
import type { Example, Message } from "../examples/formats.ts";
import { createUnusedCounter, type Mapping, NO_MAPPING } from "../examples/columns.ts";
import { placeIn, readEntries } from "../examples/dataset.ts";
import type { NoticeCount } from "../chat/notices.ts";
import type { SampleMaker } from "./sample-maker.ts";
import type { Sample } from "./sample.ts";

export interface CheckOptions {
  /** Sequence length that samples are held against. */
  readonly maxLength: number;
  /** Problems that are listed one by one; all are counted. */
  readonly listed?: number;
  /** Columns and roles of other names. */
  readonly mapping?: Mapping;
  /** Tokenizes examples, of any length; without it, only the formats are checked. */
  readonly maker?: Pick<SampleMaker, "samples" | "notices">;
}

export interface DataReport {
  readonly path: string;
  /** Examples without an error. */
  readonly examples: number;
  readonly kinds: Readonly<Record<Example["kind"], number>>;
  /** Messages by role, in chats. */
  readonly roles: Readonly<Record<string, number>>;
  /** Examples by columns that are not used. */
  readonly unused: Readonly<Record<string, number>>;
  /** Things that some messages have and that are no error. */
  readonly notices: readonly NoticeCount[];
  /** Records that are no usable example, with what is wrong. */
  readonly errors: Problems;
  /** Examples that are the same as an earlier one. */
  readonly duplicates: Problems;
  /** Samples longer than the sequence length. */
  readonly overLong: Problems;
  /** The tokens of all samples; null without a tokenizer or without samples. */
  readonly tokens: TokenReport | null;
}

export interface Problems {
  readonly count: number;
  readonly first: readonly { readonly where: string; readonly message: string }[];
}

export interface TokenReport {
  /** More than the examples when a chat template makes several samples of a conversation. */
  readonly samples: number;
  readonly total: number;
  readonly trained: number;
  readonly lengths: LengthReport;
}

export interface LengthReport {
  readonly min: number;
  readonly mean: number;
  readonly p50: number;
  readonly p90: number;
  readonly p95: number;
  readonly p99: number;
  readonly max: number;
}

/**
 * Reads a whole data file and reports everything that training on it would stumble over, instead of stopping at the
 * first error.
 * @throws {UserError} only when the file itself cannot be read
 */
export async function checkData(path: string, options: CheckOptions): Promise<DataReport> {
  const { maxLength, listed = 20, maker, mapping = NO_MAPPING } = options;
  const unused = createUnusedCounter();
  const kinds: Record<Example["kind"], number> = {
    chat: 0,
    completion: 0,
    text: 0,
    preference: 0,
    unpaired: 0,
    labelled: 0,
    contrast: 0,
    ranked: 0,
    scored: 0,
    told: 0,
  };
  const roles = new Map<string, number>();
  const errors = createProblems(listed);
  const duplicates = createProblems(listed);
  const overLong = createProblems(listed);
  const placeOf = placeIn(path);
  const seen = new Map<bigint, number>();
  const lengths: number[] = [];
  let trained = 0;
  for await (const entry of readEntries(path, { mapping, unused: unused.count })) {
    let example: Example;
    let tokenized: Sample[];
    try {
      example = entry.parse();
      tokenized = maker?.samples(example) ?? [];
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      errors.add(entry.where, withoutPlace(error.message, entry.where));
      continue;
    }
    kinds[example.kind]++;
    for (const { role } of messagesOf(example)) roles.set(role, (roles.get(role) ?? 0) + 1);
    const content = contentHash(example);
    const earlier = seen.get(content);
    if (earlier === undefined) seen.set(content, entry.number);
    else duplicates.add(entry.where, `the same as ${placeOf(earlier)}`);
    for (const { ids, labels } of tokenized) {
      lengths.push(ids.length);
      for (let t = 1; t < labels.length; t++) if (labels[t]! >= 0) trained++;
      if (ids.length > maxLength) overLong.add(entry.where, `${ids.length} tokens, ${ids.length - maxLength} too many`);
    }
  }
  return {
    path,
    examples: Object.values(kinds).reduce((sum, count) => sum + count, 0),
    kinds,
    roles: Object.fromEntries([...roles].sort(([a], [b]) => (a < b ? -1 : 1))),
    unused: Object.fromEntries(unused.counts),
    notices: maker?.notices() ?? [],
    errors: errors.finish(),
    duplicates: duplicates.finish(),
    overLong: overLong.finish(),
    tokens: lengths.length === 0 ? null : tokenReport(lengths, trained),
  };
}

/** 64 bits of a hash of what the example says, not of how its line is written. */
function contentHash(example: Example): bigint {
  return BigInt(Bun.hash(JSON.stringify(withoutWhere(example))));
}

function withoutWhere(example: Example): object {
  if (example.kind === "unpaired" || example.kind === "told")
    return { ...example, answer: withoutWhere(example.answer), where: "" };
  if (example.kind === "labelled") return { ...example, content: withoutWhere(example.content), where: "" };
  if (example.kind !== "preference") return { ...example, where: "" };
  return { ...example, chosen: withoutWhere(example.chosen), rejected: withoutWhere(example.rejected), where: "" };
}

/** The messages of chats; of a preference those of both. */
function messagesOf(example: Example): readonly Message[] {
  if (example.kind === "preference") return [example.chosen, example.rejected].flatMap(messagesOf);
  if (example.kind === "unpaired" || example.kind === "told") return messagesOf(example.answer);
  if (example.kind === "labelled") return messagesOf(example.content);
  return example.kind === "chat" ? example.messages : [];
}

/** The report shows the place in a column of its own. */
function withoutPlace(message: string, where: string): string {
  return message.startsWith(where) ? message.slice(where.length).replace(/^[:,]?\s*/, "") : message;
}

function createProblems(listed: number): { add(where: string, message: string): void; finish(): Problems } {
  const first: { where: string; message: string }[] = [];
  let count = 0;
  return {
    add(where, message) {
      if (count++ < listed) first.push({ where, message });
    },
    finish: () => ({ count, first }),
  };
}

function tokenReport(lengths: number[], trained: number): TokenReport {
  const sorted = Float64Array.from(lengths).sort();
  const total = sorted.reduce((sum, length) => sum + length, 0);
  // Nearest rank: the smallest length that at least this share of the samples does not exceed.
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)]!;
  return {
    samples: sorted.length,
    total,
    trained,
    lengths: {
      min: sorted[0]!,
      mean: total / sorted.length,
      p50: at(0.5),
      p90: at(0.9),
      p95: at(0.95),
      p99: at(0.99),
      max: at(1),
    },
  };
}
