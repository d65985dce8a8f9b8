import { UserError } from "../../../base/errors.ts";
import type { CompletionExample, ContrastExample, RankedExample, ScoredExample } from "../../examples/formats.ts";
import { type Tokenizer, withPrefix } from "../../tokens/tokenizer.ts";
import { IGNORED, type Sample } from "../sample.ts";

export interface SampleOptions {
  /** Longest sample, in tokens. */
  readonly maxLength: number;
  /** Cut longer samples instead of refusing them. */
  readonly truncate?: boolean;
  /** Rows of the model's embedding; a tokenizer with larger ids belongs to another model. */
  readonly vocabSize: number;
  /** Ends a text when the tokenizer names no eos token: config.json's. */
  readonly eosId?: number | null;
  /** Texts that are judged stand among all tokens that the tokenizer puts around one or two: those of encoders. */
  readonly surround?: boolean;
  /** Texts that are judged end where an answer is to begin; those of a model with a chat template are asked by it, as a user's. */
  readonly asks?: boolean;
  /** Text in front of each text that an embedding is made of. */
  readonly prompt?: string;
  /** Puts such texts into lower case, letter by letter. */
  readonly lowerCase?: boolean;
  /** The time that a template's `strftime_now` reads. */
  readonly now?: Date;
}

/** Makes samples of texts that are judged as a whole, of which no token is predicted. Nothing ends them. */
export interface JudgedTexts {
  /** One text, or two behind each other. @throws {UserError} texts that are empty or too long */
  texts(texts: readonly string[], where: string): Sample;
  /** A prompt and an answer to it as the two texts of an encoder; the answer alone is cut where both are too long. */
  answer(example: CompletionExample): Sample;
  /** The tokens of a whole conversation. */
  whole(ids: Int32Array, where: string): Sample;
  /** A text of any length, each piece of the sequence length by itself; cut to the first one where texts may be cut. */
  pieces(text: string, where: string): Sample[];
  /** A text by itself, among the tokens that the tokenizer puts around one. */
  alone(text: string, where: string): Sample;
  /** The same of each text. */
  contrast(example: ContrastExample): Sample[];
  scored(example: ScoredExample): Sample[];
  /** The query with each text, which alone is cut where both are too long. */
  ranked(example: RankedExample): Sample[];
}

export function createJudgedTexts(
  tokenizer: Tokenizer,
  options: SampleOptions,
  encode: (text: string, where: string) => Int32Array,
): JudgedTexts {
  const place = options.surround ? surrounded : prefixed;
  const encoded = (texts: readonly string[], where: string) => texts.map((text) => encode(text, where));
  const { prompt = "", lowerCase = false } = options;
  const alone = (text: string, where: string): Sample => {
    const ids = encode(lowerCase ? lowered(prompt + text) : prompt + text, where);
    const { seconds: _, ...sample } = surrounded(tokenizer, [ids], where, options);
    return sample;
  };
  return {
    texts: (texts, where) => place(tokenizer, encoded(texts, where), where, options),
    answer({ prompt, completion, where }) {
      return surrounded(tokenizer, encoded([prompt, completion], where), where, { ...options, cut: "second" });
    },
    pieces(text, where) {
      const ids = encode(text, where);
      const room = Math.max(1, options.maxLength - tokenizer.surround(new Int32Array()).ids.length);
      const count = options.truncate ? 1 : Math.max(1, Math.ceil(ids.length / room));
      return Array.from({ length: count }, (_, i) => {
        return surrounded(tokenizer, [ids.subarray(i * room, (i + 1) * room)], where, options);
      });
    },
    whole: (ids, where) => unlabelled([ids], where, options),
    alone,
    contrast: ({ anchor, positives, negatives, where }) => [anchor, ...positives, ...negatives].map((text) => alone(text, where)),
    scored: ({ first, second, where }) => [first, second].map((text) => alone(text, where)),
    ranked({ query, texts, where }) {
      const [first, ...others] = encoded([query, ...texts], where);
      return others.map((second) => place(tokenizer, [first!, second], where, { ...options, cut: "second" }));
    },
  };
}

/** Letter by letter, as tokenizers do it: the end of a word changes nothing. */
const lowered = (text: string): string => Array.from(text, (letter) => letter.toLowerCase()).join("");

/** Says which of two texts loses its end first. */
interface Cutting extends SampleOptions {
  /** The longer one as in Transformers, or the second. */
  readonly cut?: "longer" | "second";
}

/** One or two texts of `most` tokens together. @throws {UserError} a first text that may not be cut and leaves no room for the second */
function shortened(parts: readonly Int32Array[], most: number, where: string, { cut, maxLength }: Cutting): Int32Array[] {
  const [first, second] = parts;
  if (!second) return [first!.subarray(0, most)];
  if (first!.length + second.length <= most) return [first!, second];
  if (cut === "second") {
    const room = most - first!.length;
    if (room > 0) return [first!, second.subarray(0, room)];
    throw new UserError(
      `${where}: the query has ${first!.length} tokens, which leave no room for a text within the sequence length of ${maxLength}; raise it, or shorten the query`,
    );
  }
  const shorter = Math.min(first!.length, second.length, Math.floor(most / 2));
  const isFirstLonger = first!.length > second.length;
  return [
    first!.subarray(0, isFirstLonger ? most - shorter : shorter),
    second.subarray(0, isFirstLonger ? shorter : most - shorter),
  ];
}

/** One or two texts, each behind what begins a text. */
function prefixed(tokenizer: Tokenizer, texts: readonly Int32Array[], where: string, options: Cutting): Sample {
  const parts = texts.map((ids) => withPrefix(tokenizer, ids));
  return unlabelled(options.truncate ? shortened(parts, options.maxLength, where, options) : parts, where, options);
}

/** One or two texts as an encoder reads them. */
function surrounded(tokenizer: Tokenizer, texts: readonly Int32Array[], where: string, options: Cutting): Sample {
  const more = tokenizer.surround(new Int32Array(), texts[1] && new Int32Array()).ids.length;
  const [first, second] = options.truncate ? shortened(texts, Math.max(0, options.maxLength - more), where, options) : texts;
  const { ids, types } = tokenizer.surround(first!, second);
  const at = types.indexOf(1);
  return { ...unlabelled([ids], where, options), seconds: [at < 0 ? ids.length : at] };
}

/** A sample that is judged as a whole. */
function unlabelled(parts: readonly Int32Array[], where: string, options: SampleOptions): Sample {
  const ids = Int32Array.from(parts.flatMap((part) => [...part]));
  if (ids.length === 0) throw new UserError(`${where}: the text has no token; expected a text that says something`);
  return fitted({ ids, labels: new Int32Array(ids.length).fill(IGNORED), weights: null, where }, options);
}

/** The sample within the sequence length, if it may be cut. */
export function fitted({ ids, labels, weights, where }: Sample, { maxLength, truncate, vocabSize }: SampleOptions): Sample {
  const foreign = ids.find((id) => id >= vocabSize);
  if (foreign !== undefined) {
    throw new UserError(
      `${where}: token id ${foreign} is outside the model's vocabulary of ${vocabSize}; the tokenizer belongs to another model`,
    );
  }
  if (ids.length <= maxLength) return { ids, labels, weights, where };
  if (!truncate) {
    throw new UserError(
      `${where}: the example has ${ids.length} tokens, more than the sequence length of ${maxLength}; raise it, shorten the example, or allow truncation`,
    );
  }
  return {
    ids: ids.slice(0, maxLength),
    labels: labels.slice(0, maxLength),
    weights: weights && weights.slice(0, maxLength),
    where,
  };
}
