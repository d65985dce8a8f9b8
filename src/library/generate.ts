import { closeSync, existsSync, openSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { fileError, writeFully } from "../base/files/files.ts";
import { readMapping } from "../data/examples/formats.ts";
import { promptFiles } from "../data/examples/sources.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import { trainConfigSchema } from "../train/config.ts";
import { cacheBytes } from "../generate/decoders.ts";
import { generateAll, stopTokens } from "../generate/generate.ts";
import { createDecoders, roomOf } from "../generate/open-decoder.ts";
import { type Prompt, promptOf, readPrompts } from "../generate/prompts.ts";
import { answerText, type SeparateAnswer } from "../generate/reasoning.ts";
import { createSampler } from "../generate/sampler.ts";
import { withModel } from "../load/open-model.ts";
import {
  type CallOptions,
  CHAT_OPTIONS,
  chooseSampling,
  checkOf,
  MODEL_OPTIONS,
  SAMPLING_OPTIONS,
  validateOptions,
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
  readonly tokens: number;
  readonly seconds: number;
}

/** Bytes of keys and values of all texts that are under way. */
const CACHE_BYTES = 2 ** 29;

/**
 * Answers many prompts, several at a time: those of a file into another file, or texts and conversations in memory.
 * An answer does not depend on the other prompts. The event loop gets in between two answers.
 * @throws {UserError} a prompt without room, a file that is in the way, a model that does not fit
 */
export async function generate(options: GenerateOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<GenerateResult> {
  const flags =
    "prompts" in options ? validateOptions(generateTextsSchema, options) : validateOptions(generateFileSchema, options);
  if ("out" in flags && existsSync(flags.out) && !flags.overwrite)
    throw new UserError(`${flags.out} exists; choose another file, or give --overwrite`);
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
      for (const { ids, where } of prompts) {
        if (ids.length > room)
          throw new UserError(`${where}: the prompt has ${ids.length} tokens, more than the ${room} that there is room for`);
      }
      const longest = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 1);
      const maxTokens = Math.min(room, longest + sampling.maxNewTokens);
      const fitting = Math.floor(CACHE_BYTES / cacheBytes(config, maxTokens));
      const texts = Math.max(1, Math.min(flags.batchSize, prompts.length, fitting));
      const decoders = createDecoders(executor, { ...model, maxTokens }, texts);
      sink({ type: "sampling", text: described });
      const stop = stopTokens(config, tokenizer);
      const begin = performance.now();
      // A seed of its own: an answer does not depend on the other prompts.
      const optionsOf = (i: number) => ({
        limit: sampling.maxNewTokens,
        stop,
        sampler: createSampler({ ...sampling, seed: sampling.seed + i }),
      });
      const answers: GeneratedAnswer[] = [];
      const write = "out" in flags ? openLines(flags.out) : null;
      try {
        const ended = new Map<number, readonly number[]>();
        for (const [number, answer] of generateAll(
          decoders,
          prompts.map(({ ids }) => ids),
          optionsOf,
        )) {
          ended.set(number, answer);
          // Answers are told and written in the order of the prompts.
          for (let ids = ended.get(answers.length); ids; ids = ended.get(answers.length)) {
            ended.delete(answers.length);
            const prompt = prompts[answers.length]!;
            const answer = prompt.separate(answerText(tokenizer, ids));
            write?.line(prompt, answer);
            answers.push({ ...answer, tokens: ids.length });
            const { where } = prompt;
            sink({ type: "answer", number: answers.length, of: prompts.length, where, tokens: ids.length });
          }
          await Bun.sleep(0);
          signal?.throwIfAborted();
        }
      } finally {
        write?.close();
      }
      const tokens = answers.reduce((sum, answer) => sum + answer.tokens, 0);
      return { answers, tokens, seconds: (performance.now() - begin) / 1000 };
    },
    { onNote, check: checkOf(flags) },
  );
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

function openLines(path: string): { line(prompt: Prompt, answer: SeparateAnswer): void; close(): void } {
  const fd = openFile(path);
  return {
    line: (prompt, answer) => writeLine(fd, path, `${JSON.stringify(prompt.withAnswer(answer))}\n`),
    close: () => closeSync(fd),
  };
}

function openFile(path: string): number {
  try {
    return openSync(path, "w");
  } catch (error) {
    throw fileError("write", path, error);
  }
}

function writeLine(fd: number, path: string, line: string): void {
  try {
    writeFully(fd, Buffer.from(line));
  } catch (error) {
    throw fileError("write", path, error);
  }
}
