import { JsonNumber } from "../../base/exact-json.ts";
import { UserError } from "../../base/errors.ts";
import { isRecord, jsonKind, show } from "../../base/json.ts";
import type { ChatExample, CompletionExample, ToldExample } from "./example.ts";
import type { DataRecord } from "./values.ts";

/** An answer as tokens, and what the model that wrote it found likely in the place of each. */
export interface ToldTokens {
  /** The hash by `vocabularyOf` of the tokenizer whose ids these are. */
  readonly tokenizer: string;
  /** Tokens in front of the answer. */
  readonly prompt: ArrayLike<number>;
  /** One for each token: with the one that ended the answer. */
  readonly chosen: readonly {
    readonly id: number;
    readonly top: readonly { readonly id: number; readonly logprob: number }[];
  }[];
}

/** How far probabilities may be above 1 together, by their rounding. */
const ROUNDING = 1e-3;

/** The value of the key `logprobs` of a line that `generate --logprobs` writes. Nine digits give an f32 back to the bit. */
export function toldRecord({ tokenizer, prompt, chosen }: ToldTokens): DataRecord {
  return {
    tokenizer,
    prompt: Array.from(prompt),
    tokens: chosen.map(({ id }) => id),
    top_ids: chosen.map(({ top }) => top.map(({ id }) => id)),
    top_logprobs: chosen.map(({ top }) => top.map(({ logprob }) => Number(Math.fround(logprob).toPrecision(9)))),
  };
}

/** Reads it, beside the answer as text. @throws {UserError} */
export function readTold(answer: ChatExample | CompletionExample, record: DataRecord): ToldExample {
  const { where } = answer;
  const own = record["logprobs"];
  if (!isRecord(own))
    throw new UserError(
      `${where}: "logprobs" must be an object, as remat generate --logprobs writes it, got ${jsonKind(own)}; leave it out with --columns ignore=logprobs`,
    );
  const tokenizer = own["tokenizer"];
  if (typeof tokenizer !== "string")
    throw new UserError(`${where}: "tokenizer" of "logprobs" must be a text, got ${jsonKind(tokenizer)}`);
  const [prompt, tokens] = [idsOf(own["prompt"], '"prompt"', where), idsOf(own["tokens"], '"tokens"', where)];
  const ids = rowsOf(own["top_ids"], "top_ids", where).map((row, i) => idsOf(row, `"top_ids" entry ${i + 1}`, where));
  const values = rowsOf(own["top_logprobs"], "top_logprobs", where);
  const top = ids[0]?.length ?? 0;
  if (ids.length !== tokens.length || values.length !== tokens.length)
    throw new UserError(
      `${where}: "logprobs" has ${tokens.length} "tokens", "top_ids" for ${ids.length} and "top_logprobs" for ${values.length}; expected one entry for each token`,
    );
  const logProbabilities = new Float32Array(tokens.length * top);
  for (const [i, row] of values.entries()) {
    const likeliest = ids[i]!;
    if (likeliest.length !== top || row.length !== top || new Set(likeliest).size < top)
      throw new UserError(
        `${where}: token ${i + 1} of "logprobs" has ${new Set(likeliest).size} likeliest tokens and ${row.length} log-probabilities; expected ${top} of each, as the first token has`,
      );
    logProbabilities.set(falling(row, i, where), i * top);
  }
  return {
    kind: "told",
    answer,
    tokenizer,
    prompt: Int32Array.from(prompt),
    tokens: Int32Array.from(tokens),
    top,
    ids: Int32Array.from(ids.flat()),
    logProbabilities,
    where,
  };
}

/** Leaves so many of the likeliest tokens of each place. @throws {UserError} there are fewer */
export function firstTold(example: ToldExample, top: number): ToldExample {
  const { where, tokens, top: all } = example;
  if (top > all)
    throw new UserError(
      `${where}: "logprobs" has the ${all} likeliest tokens of each place, fewer than --teacher-top ${top}; give --teacher-top ${all}, or write the file with remat generate --logprobs ${top}`,
    );
  const first = (i: number) => Math.floor(i / top) * all + (i % top);
  const size = tokens.length * top;
  return {
    ...example,
    top,
    ids: Int32Array.from({ length: size }, (_, i) => example.ids[first(i)]!),
    logProbabilities: Float32Array.from({ length: size }, (_, i) => example.logProbabilities[first(i)]!),
  };
}

const plain = (value: unknown): unknown => (value instanceof JsonNumber ? value.valueOf() : value);

function rowsOf(value: unknown, key: string, where: string): readonly (readonly unknown[])[] {
  if (Array.isArray(value) && value.every((row) => Array.isArray(row))) return value as unknown[][];
  throw new UserError(`${where}: "${key}" of "logprobs" must be a list of lists, one for each token; got ${show(value)}`);
}

function idsOf(value: unknown, key: string, where: string): readonly number[] {
  const ids = Array.isArray(value) ? value.map(plain) : [];
  if (ids.length > 0 && ids.every((id) => Number.isInteger(id) && (id as number) >= 0 && (id as number) < 2 ** 31))
    return ids as number[];
  throw new UserError(`${where}: ${key} of "logprobs" must be a list of token ids, at least one; got ${show(value)}`);
}

/** The log-probabilities of a place, the greatest first. */
function falling(row: readonly unknown[], place: number, where: string): Float32Array {
  const values = row.map(plain);
  let [before, sum] = [0, 0];
  for (const value of values) {
    if (typeof value !== "number" || !(value <= before) || value === -Infinity)
      throw new UserError(
        `${where}: "top_logprobs" of "logprobs", token ${place + 1}: expected natural logarithms of probabilities, 0 at most, the likeliest first; got ${show(values)}`,
      );
    before = value;
    sum += Math.exp(value);
  }
  if (sum > 1 + ROUNDING)
    throw new UserError(
      `${where}: "top_logprobs" of "logprobs", token ${place + 1}: the probabilities are ${sum.toFixed(3)} together, more than 1; got ${show(values)}`,
    );
  return Float32Array.from(values as number[]);
}
