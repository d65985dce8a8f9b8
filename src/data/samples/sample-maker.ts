import { UserError } from "../../base/errors.ts";
import { trainedTexts } from "../chat/chat-spans.ts";
import { chatTemplateOf, readsDate } from "../chat/chat-template.ts";
import type { ChatTemplate } from "../chat/chat-template.ts";
import { endTokens } from "../chat/end-of-turn.ts";
import { createNotices, type NoticeCount } from "../chat/notices.ts";
import { holdsSpecialText, specialTextPattern, specialTextPlaces } from "../chat/special-text.ts";
import type {
  ChatExample,
  Example,
  LabelledExample,
  PreferenceExample,
  ToldExample,
  UnpairedExample,
} from "../examples/formats.ts";
import { type Tokenizer, withPrefix } from "../tokens/tokenizer.ts";
import { vocabularyOf } from "../tokens/vocabulary.ts";
import { createJudgedTexts, fitted, type SampleOptions } from "./judged/judged-texts.ts";
import { askedText, notAsked, refuseCutting } from "./judged/options.ts";
import { IGNORED, type Sample } from "./sample.ts";

export type { SampleOptions };

export interface SampleMaker {
  /** @throws {UserError} over-long samples, samples without a trainable token */
  samples(example: Example): Sample[];
  /** A text by itself, among the tokens that the tokenizer puts around one. @throws {UserError} with `where` */
  alone(text: string, where: string): Sample;
  /** Tokens as they are. @throws {UserError} with `where` */
  tokens(ids: Int32Array, where: string): Sample;
  /** Returns what examples had since the last call that is no error; counted, with the first place. */
  notices(): NoticeCount[];
  /** Changes whenever the same example might become other samples: names them in a cache. */
  readonly key: string;
}

/**
 * Turns examples into samples. Chat: the assistant's turns are trained on (see `trainedTexts`
 * for conversations that become several samples). Prompt and completion: the completion and the eos after it.
 * Text: everything, eos included; for encoders in pieces, of which no token is predicted by itself. A preference: the chosen text, then the rejected one. An unpaired answer: its text, with what was said of it. A contrast: a text each, anchor, positives and negatives. A scored pair: a text each. A ranked query: with each of its texts, one pair behind the other. A told answer: its tokens as they are. The tokenizer's own prefix (`<s>`) stands before prompts and texts; chat templates
 * write theirs.
 */
export function createSampleMaker(tokenizer: Tokenizer, options: SampleOptions): SampleMaker {
  const eosId = tokenizer.eosId ?? options.eosId ?? null;
  const templates = new Map<boolean, ChatTemplate>();
  const templateFor = (tools: boolean): ChatTemplate => {
    let template = templates.get(tools);
    if (!template) templates.set(tools, (template = chatTemplateOf(tokenizer, { tools, now: options.now })));
    return template;
  };
  const end = eosId === null ? [] : [eosId];
  const { maxLength, truncate = false, surround = false, asks = false, now = new Date() } = options;
  refuseCutting(options);
  const limit = Math.max(SHORT_TEXT, CHARACTERS_PER_TOKEN * maxLength);
  /** Returns the most of a text that a sample can need: tokenizing 100 MB in one piece would take gigabytes. */
  const bounded = (text: string, where: string): string => {
    if (text.length <= limit) return text;
    if (truncate) return text.slice(0, limit);
    throw new UserError(
      `${where}: the example has ${text.length} characters, which are more than ${maxLength} tokens, the sequence length; shorten the example, or allow truncation`,
    );
  };
  const judged = createJudgedTexts(tokenizer, options, (text, where) => tokenizer.encode(bounded(text, where)));
  const ends = endTokens(tokenizer);
  const notices = createNotices();
  const special = specialTextPattern(tokenizer.specialTokens.keys());
  /** Counts messages with text of special tokens; whether they are to be escaped. */
  const escapesOf = ({ messages, tools, where }: ChatExample, pattern: RegExp): boolean => {
    const found = messages.flatMap(({ fields }, i) => (holdsSpecialText({ ...fields, role: "" }, pattern) ? [i] : []));
    if (tokenizer.specialText === "escape") return found.length > 0 || holdsSpecialText(tools, pattern);
    for (const i of found) notices.add({ kind: "special", where: `${where}, message ${i + 1}` });
    return false;
  };
  const samples = (example: Example): Sample[] => {
    switch (example.kind) {
      case "text": {
        if (surround) return judged.pieces(example.text, example.where);
        const ids = withPrefix(tokenizer, tokenizer.encode(bounded(example.text, example.where)));
        return [finish(join(ids, end), tokenizer.prefix.length, example.where, options)];
      }
      case "completion": {
        if (asks) throw notAsked(example);
        if (surround) return [judged.answer(example)];
        const text = bounded(example.prompt + example.completion, example.where);
        const { ids: own, tokens } = tokenizer.encodeWithBoundaries(text, [example.prompt.length]);
        const ids = withPrefix(tokenizer, own);
        // What begins the text is no answer, whoever wrote it.
        const from = Math.max(tokenizer.prefix.length, ids.length - own.length + tokens[0]!);
        return [finish(join(ids, end), from, example.where, options)];
      }
      case "preference":
        return preference(example);
      case "unpaired":
        return unpaired(example);
      case "labelled":
        return [labelled(example)];
      case "contrast":
        return judged.contrast(example);
      case "scored":
        return judged.scored(example);
      case "ranked":
        return judged.ranked(example);
      case "told":
        return [told(example)];
      case "chat": {
        const template = templateFor(example.tools !== null);
        const texts = trainedTexts(template, example, ends, notices.add);
        if (texts.length === 0) throw noTrainable(example.where, "no message is an assistant's to train on");
        const escapes = special !== null && escapesOf(example, special);
        return texts.map(({ text, ranges, weights: ofRange, conversation }) => {
          const plain = escapes ? specialTextPlaces(template, conversation, text, special, example.where) : [];
          const { ids, tokens } = tokenizer.encodeWithBoundaries(bounded(text, example.where), ranges.flat(), plain);
          const labels = new Int32Array(ids.length).fill(IGNORED);
          const weights = ofRange.every((weight) => weight === 1) ? null : new Float32Array(ids.length).fill(1);
          ranges.forEach((_, i) => {
            const [from, to] = [tokens[2 * i], tokens[2 * i + 1]];
            labels.set(ids.subarray(from, to), from);
            weights?.fill(ofRange[i]!, from, to);
          });
          return checked(ids, labels, weights, example.where, options);
        });
      }
    }
  };
  const preference = ({ chosen, rejected, where }: PreferenceExample): Sample[] => {
    if (!surround) return pairOf([chosen, rejected].map(samples), where);
    if (chosen.kind === "chat")
      throw new UserError(
        `${where}: "chosen" and "rejected" are conversations; a text encoder judges texts: give "prompt", "chosen" and "rejected" as texts`,
      );
    return [chosen, rejected].flatMap(samples);
  };
  const unpaired = ({ answer, desirable, where }: UnpairedExample): Sample[] => {
    const [made, ...more] = samples(answer) as [Sample, ...Sample[]];
    if (more.length > 0)
      throw new UserError(
        `${where}: the chat template makes several texts of the answer, of which none could be judged as a whole; give it one assistant message`,
      );
    return [{ ...made, target: Float32Array.of(Number(desirable)) }];
  };
  /** A text, or two behind each other, or a whole conversation, of which no token is predicted. Nothing ends it, but for what asks for an answer. */
  const labelled = ({ content: given, pair, where }: LabelledExample): Sample => {
    const content = asks && given.kind === "text" ? askedText(tokenizer, given, pair) : given;
    if (content.kind === "text") return judged.texts(asks || pair === null ? [content.text] : [content.text, pair], where);
    const template = templateFor(content.tools !== null);
    const messages = content.messages.map(({ fields }) => fields);
    const conversation = { messages, tools: content.tools, args: content.args, ...(asks && { addGenerationPrompt: true }) };
    const text = template.render(conversation);
    const escapes = special !== null && escapesOf(content, special);
    const plain = escapes ? specialTextPlaces(template, conversation, text, special, where) : [];
    return judged.whole(tokenizer.encode(bounded(text, where), plain), where);
  };
  const told = createTold(tokenizer, options);
  const day = readsDate(tokenizer) ? now.toDateString() : null;
  return {
    samples,
    alone: judged.alone,
    tokens: judged.whole,
    notices: notices.take,
    key: keyOf(tokenizer, options, { eosId, day }),
  };
}

/** Makes samples of told answers: the tokens that were asked by and those that were written, whatever the texts would be as tokens. */
function createTold(tokenizer: Tokenizer, options: SampleOptions): (example: ToldExample) => Sample {
  let vocabulary: string | null = null;
  return ({ tokenizer: own, prompt, tokens, top, ids, logProbabilities, where }: ToldExample): Sample => {
    if (own !== (vocabulary ??= vocabularyOf(tokenizer)))
      throw new UserError(
        `${where}: "logprobs" was written with another tokenizer (${own.slice(0, 12)}) than the model's (${vocabulary.slice(0, 12)}), and its ids mean other tokens; expected answers of a model with the same one`,
      );
    const foreign = ids.find((id) => id >= options.vocabSize);
    if (foreign !== undefined)
      throw new UserError(
        `${where}: "logprobs" has the token id ${foreign}, outside the model's vocabulary of ${options.vocabSize}; expected answers of a model with the same tokenizer`,
      );
    const sample = finish(Int32Array.from([...prompt, ...tokens]), prompt.length, where, options);
    const kept = (sample.ids.length - prompt.length) * top;
    const teacher = { top, ids: ids.subarray(0, kept), logProbabilities: logProbabilities.subarray(0, kept) };
    return { ...sample, teacher };
  };
}

/** Everything that decides samples, as a text. */
function keyOf(
  tokenizer: Tokenizer,
  { maxLength, truncate = false, vocabSize, surround = false, asks = false, prompt = "", lowerCase = false }: SampleOptions,
  { eosId, day }: { readonly eosId: number | null; readonly day: string | null },
): string {
  const own = [SAMPLER_VERSION, tokenizer.fingerprint, maxLength, truncate, vocabSize, eosId, day];
  const more = [
    ...(surround ? ["surrounded"] : []),
    ...(asks ? ["asked"] : []),
    ...(prompt === "" ? [] : [{ prompt }]),
    ...(lowerCase ? ["lower"] : []),
  ];
  return JSON.stringify([...own, ...more]);
}

/** Tokens of a vocabulary are at most some hundred characters long (runs of spaces). */
const CHARACTERS_PER_TOKEN = 1000;

/** Characters that are tokenized in any case. */
const SHORT_TEXT = 1 << 18;

/** To be raised when the same tokenizer and options give other samples than before. */
const SAMPLER_VERSION = 4;

/** Ids and eos, which is not written twice. */
function join(ids: Int32Array, end: readonly number[]): Int32Array {
  return ids.at(-1) === end[0] ? ids : Int32Array.from([...ids, ...end]);
}

function finish(ids: Int32Array, trainedFrom: number, where: string, options: SampleOptions): Sample {
  const labels = Int32Array.from(ids);
  labels.fill(IGNORED, 0, trainedFrom);
  return checked(ids, labels, null, where, options);
}

/** Both answers to a prompt, which has the same tokens in both but for one that reaches into the answer. */
function pairOf(both: readonly (readonly Sample[])[], where: string): Sample[] {
  const [first, second] = both.map((made) => made[0]!) as [Sample, Sample];
  if (both.some((made) => made.length > 1)) {
    throw new UserError(
      `${where}: the chat template makes several texts of one answer, of which none could be preferred as a whole; give "chosen" and "rejected" one assistant message each`,
    );
  }
  const prompts = [first, second].map(({ ids, labels }) =>
    ids.subarray(
      0,
      labels.findIndex((label) => label !== IGNORED),
    ),
  );
  const least = Math.max(...prompts.map(({ length }) => length)) - 1;
  if (prompts.some(({ length }) => length < least) || prompts[0]!.subarray(0, least).some((id, t) => id !== prompts[1]![t])) {
    throw new UserError(`${where}: the chat template renders the prompt of "chosen" and that of "rejected" differently`);
  }
  return [first, second];
}

function checked(
  ids: Int32Array,
  labels: Int32Array,
  weights: Float32Array | null,
  where: string,
  options: SampleOptions,
): Sample {
  const { maxLength } = options;
  // The first token has nothing before it to be predicted from.
  const hasTarget = (all: Int32Array) => all.subarray(1).some((label) => label !== IGNORED);
  const sample = fitted({ ids, labels, weights, where }, options);
  if (!hasTarget(labels)) throw noTrainable(where, "all tokens are masked");
  if (!hasTarget(sample.labels))
    throw noTrainable(
      where,
      `the first ${maxLength} of ${ids.length} tokens are all masked; raise the sequence length or remove the example`,
    );
  return sample;
}

function noTrainable(where: string, why: string): UserError {
  return new UserError(`${where}: the example has no trainable token: ${why}`);
}
