import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { hashFile } from "../base/files/files.ts";
import { createBreath } from "../base/process/event-loop.ts";
import { readMapping } from "../data/examples/formats.ts";
import type { DataRecord } from "../data/examples/values.ts";
import { promptFiles } from "../data/examples/sources.ts";
import { toldRecord } from "../data/examples/told.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { vocabularyOf } from "../data/tokens/vocabulary.ts";
import { trainConfigSchema } from "../train/config.ts";
import { cacheBytes } from "../generate/decoders.ts";
import { generateAll, stopTokens } from "../generate/generate.ts";
import { type ChosenToken, tellingLogprobs } from "../generate/logits/logprobs.ts";
import { openDecoders, roomOf } from "../generate/open-decoder.ts";
import { answerIn, type Prompt, promptOf, readPrompts } from "../generate/prompts.ts";
import { answerText, type SeparateAnswer } from "../generate/reasoning.ts";
import { createSampler, type Sampler } from "../generate/sampler.ts";
import { CONFIG_FILE } from "../hf/peft/adapter-folder.ts";
import { examineWeights } from "../hf/weights/examine.ts";
import { type OpenModel, withModel } from "../load/open-model.ts";
import { storageOf } from "../load/weights.ts";
import { type AnswersIdentity, checkAnswersFile, openAnswers } from "./answers-file.ts";
import {
  type CallOptions,
  CHAT_OPTIONS,
  chooseSampling,
  checkOf,
  MODEL_OPTIONS,
  SAMPLING_OPTIONS,
  validateOptions,
  readingOf,
} from "./options.ts";

const COMMON = {
  batchSize: z
    .int()
    .min(1)
    .max(64)
    .default(8)
    .describe("prompts that are answered at a time, fewer where their keys and values would take more than 512 MiB"),
} as const;

/** Answers the prompts of a file into another file. */
export const generateFileSchema = z.strictObject({
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  data: z
    .string()
    .min(1)
    .describe('prompts, in files as train takes them: any training format, its last answers left away, or {"prompt"}'),
  columns: trainConfigSchema.shape.columns,
  roles: trainConfigSchema.shape.roles,
  out: z.string().min(1).describe("JSONL file to write, one line per prompt: the prompt with the answer"),
  logprobs: z
    .int()
    .min(1)
    .max(64)
    .optional()
    .describe(
      "write each token of an answer too, with so many that the model finds likeliest there: data for train --objective distil",
    ),
  ...COMMON,
  overwrite: z.boolean().default(false).describe("replace the file to write"),
  ...SAMPLING_OPTIONS,
});

const message = z.looseObject({ role: z.string(), content: z.unknown().optional() });

/** Answers prompts that are in memory: texts to go on with, or conversations. */
export const generateTextsSchema = z.strictObject({
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  prompts: z.array(z.union([z.string().min(1), z.array(message).min(1)])).min(1),
  ...COMMON,
  ...SAMPLING_OPTIONS,
});

export type GenerateOptions = z.input<typeof generateFileSchema> | z.input<typeof generateTextsSchema>;

/** An answer to the prompt at the same place. */
export interface GeneratedAnswer extends SeparateAnswer {
  readonly tokens: number;
}

export interface GenerateResult {
  readonly answers: readonly GeneratedAnswer[];
  /** Answers, the first ones, that an earlier call for the same had written before it was ended early. */
  readonly kept: number;
  /** Tokens of all answers. */
  readonly tokens: number;
  /** Seconds that the other answers took. */
  readonly seconds: number;
}

/** Bytes of keys and values of all texts that are under way. */
const CACHE_BYTES = 2 ** 29;

/**
 * Answers many prompts, several at a time: those of a file into another file, or texts and conversations in memory.
 * An answer does not depend on the other prompts. The event loop gets in between two tokens. A call that was ended early, by its signal,
 * a kill or a full disk, leaves whole lines in the file; one for the same prompts, model and settings goes on behind them.
 * @throws the signal's reason
 * @throws {UserError} a prompt without room, a file that is in the way, a model that does not fit
 */
export async function generate(options: GenerateOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<GenerateResult> {
  const flags =
    "prompts" in options ? validateOptions(generateTextsSchema, options) : validateOptions(generateFileSchema, options);
  if ("out" in flags) checkAnswersFile(flags.out, flags.overwrite);
  signal?.throwIfAborted();
  const onNote = (text: string) => sink({ type: "note", text });
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      const warn = (text: string) => sink({ type: "warning", text });
      const { options: sampling, text: described } = chooseSampling(flags, model.folder, warn);
      const room = roomOf(config, flags.maxTokens);
      // Everything that can be refused is, before anything is written.
      const prompts =
        "prompts" in flags
          ? flags.prompts.map((prompt, i) =>
              promptOf(typeof prompt === "string" ? { prompt } : { messages: prompt }, `prompt ${i + 1}`, tokenizer),
            )
          : await readAllPrompts(flags, tokenizer, onNote);
      signal?.throwIfAborted();
      for (const { ids, where } of prompts) {
        if (ids.length > room)
          throw new UserError(`${where}: the prompt has ${ids.length} tokens, more than the ${room} that there is room for`);
      }
      const longest = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 1);
      const maxTokens = Math.min(room, longest + sampling.maxNewTokens);
      const fitting = Math.floor(CACHE_BYTES / cacheBytes(config, maxTokens));
      const texts = Math.max(1, Math.min(flags.batchSize, prompts.length, fitting));
      const decoders = await openDecoders(executor, { ...model, maxTokens }, texts, readingOf(flags, onNote, signal));
      sink({ type: "sampling", text: described });
      const stop = stopTokens(config, tokenizer);
      const begin = performance.now();
      // A seed of its own: an answer does not depend on the other prompts.
      const sampler = (i: number) => createSampler({ ...sampling, seed: sampling.seed + i });
      const count = "logprobs" in flags ? flags.logprobs : undefined;
      const told = count === undefined ? null : createTold(tokenizer, count);
      const optionsOf = (i: number) => ({
        limit: sampling.maxNewTokens,
        stop,
        sampler: told ? told.telling(i, sampler(i)) : sampler(i),
      });
      const logprobs = count === undefined ? {} : { logprobs: count };
      const identity = () => identityOf(model, prompts, { ...sampling, room, ...storageOf(flags), ...logprobs });
      const file = "out" in flags ? openAnswers(flags.out, identity(), flags.overwrite) : null;
      const answers: GeneratedAnswer[] = (file?.kept ?? []).map(({ line, tokens }) => {
        return { ...answerIn(JSON.parse(line) as Record<string, unknown>), tokens };
      });
      const kept = answers.length;
      if (kept > 0)
        onNote(`${kept} of ${prompts.length} answers are there from a call that was ended early; it goes on behind them`);
      const breathe = createBreath(signal);
      try {
        const ended = new Map<number, readonly number[]>();
        const open = prompts.slice(kept).map(({ ids }) => ids);
        for (const end of generateAll(decoders, open, (i) => optionsOf(kept + i))) {
          if (end !== null) ended.set(kept + end[0], end[1]);
          // Answers are told and written in the order of the prompts.
          for (let ids = ended.get(answers.length); ids; ids = ended.get(answers.length)) {
            ended.delete(answers.length);
            const number = answers.length;
            const prompt = prompts[number]!;
            const answer = prompt.separate(answerText(tokenizer, ids));
            const record = { ...prompt.withAnswer(answer), ...(told && { logprobs: told.take(number, prompt.ids) }) };
            file?.write({ line: JSON.stringify(record), tokens: ids.length });
            answers.push({ ...answer, tokens: ids.length });
            const { where } = prompt;
            sink({ type: "answer", number: answers.length, of: prompts.length, where, tokens: ids.length });
          }
          await breathe();
        }
        file?.finish();
      } finally {
        file?.close();
        decoders.close();
      }
      const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0);
      return { answers, kept, tokens, seconds: (performance.now() - begin) / 1000 };
    },
    { onNote, check: checkOf(flags) },
  );
}

/** Collects what the model finds likely while it answers, by the number of the prompt. */
function createTold(tokenizer: Tokenizer, count: number) {
  const chosen = new Map<number, ChosenToken[]>();
  const vocabulary = vocabularyOf(tokenizer);
  return {
    telling(number: number, sampler: Sampler): Sampler {
      const tokens: ChosenToken[] = [];
      chosen.set(number, tokens);
      return tellingLogprobs(sampler, count, (token) => void tokens.push(token));
    },
    /** Returns what the line of the prompt says of its answer. */
    take(number: number, prompt: Int32Array): DataRecord {
      const tokens = chosen.get(number)!;
      chosen.delete(number);
      return toldRecord({ tokenizer: vocabulary, prompt, chosen: tokens });
    },
  };
}

/** The prompts of all files that `data` names, in their order. @throws {UserError} */
async function readAllPrompts(
  flags: z.output<typeof generateFileSchema>,
  tokenizer: Tokenizer,
  onNote: (note: string) => void,
): Promise<Prompt[]> {
  const reading = { mapping: readMapping(flags), onNote };
  const prompts: Prompt[] = [];
  for (const path of promptFiles(flags.data))
    for await (const prompt of readPrompts(path, tokenizer, reading)) prompts.push(prompt);
  return prompts;
}

/** Everything that decides the answers. Devices and batches decide no more than their rounding. */
function identityOf(
  { identity, adapter }: OpenModel,
  prompts: readonly Prompt[],
  settings: Readonly<Record<string, unknown>>,
): AnswersIdentity {
  const hasher = new Bun.CryptoHasher("sha256");
  const nothing = { text: "", reasoning: null };
  for (const prompt of prompts) hasher.update(`${JSON.stringify([[...prompt.ids], prompt.withAnswer(nothing)])}\n`);
  const configFile = adapter === null ? "" : join(adapter.path, CONFIG_FILE);
  const adapted = adapter && [examineWeights(adapter.source), existsSync(configFile) ? hashFile(configFile) : ""];
  return {
    prompts: hasher.digest("hex"),
    model: JSON.stringify([identity, adapted]),
    settings: JSON.stringify(settings),
  };
}
