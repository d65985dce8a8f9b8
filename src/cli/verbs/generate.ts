import { closeSync, existsSync, openSync } from "node:fs";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { cacheBytes } from "../../generate/decoders.ts";
import { createDecoders, roomOf } from "../../generate/open-decoder.ts";
import { generateAll, stopTokens } from "../../generate/generate.ts";
import { readPrompts } from "../../generate/prompts.ts";
import { createSampler } from "../../generate/sampler.ts";
import { fileError, writeFully } from "../../base/files.ts";
import { printEvent } from "../terminal/display.ts";
import { printNote } from "../terminal/terminal.ts";
import { describeFlags } from "../flags/flags.ts";
import { chooseSampling, MODEL_FLAGS, readFlags, SAMPLING_FLAGS } from "../flags/model-flags.ts";
import { withModel } from "../../load/open-model.ts";

const schema = z.strictObject({
  ...MODEL_FLAGS,
  data: z.string().min(1).describe('JSONL file of prompts: any training format, its last answers left away, or {"prompt"}'),
  out: z.string().min(1).describe("JSONL file to write, one line per prompt: the prompt with the answer"),
  batchSize: z
    .int()
    .min(1)
    .max(64)
    .default(8)
    .describe("prompts that are answered at a time, fewer where their keys and values would take more than 512 MiB"),
  overwrite: z.boolean().default(false).describe("replace the file to write"),
  ...SAMPLING_FLAGS,
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
});

export { schema as flags };

/** Keys and values of all texts that are under way. */
const CACHE_BYTES = 2 ** 29;

export function help(): string {
  return `Answers the prompts of a file.

Usage: remat generate --model DIR [--adapter DIR] --data FILE --out FILE [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const flags = readFlags("generate", schema, args);
  if (existsSync(flags.out) && !flags.overwrite)
    throw new UserError(`${flags.out} exists; choose another file, or give --overwrite`);
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      const { options, text } = chooseSampling(flags, model.folder, flags.json);
      const room = roomOf(config, flags.maxTokens);
      // Everything that can be refused is, before anything is written.
      const prompts = [...readPrompts(flags.data, tokenizer)];
      for (const { ids, where } of prompts) {
        if (ids.length > room)
          throw new UserError(`${where}: the prompt has ${ids.length} tokens, more than the ${room} that there is room for`);
      }
      const longest = prompts.reduce((most, { ids }) => Math.max(most, ids.length), 1);
      const maxTokens = Math.min(room, longest + options.maxNewTokens);
      const fitting = Math.floor(CACHE_BYTES / cacheBytes(config, maxTokens));
      const texts = Math.max(1, Math.min(flags.batchSize, prompts.length, fitting));
      const decoders = createDecoders(executor, { ...model, maxTokens }, texts);
      if (!flags.json) process.stderr.write(`sampling: ${text}\n`);
      const stop = stopTokens(config, tokenizer);
      const begin = performance.now();
      let tokens = 0;
      const fd = openFile(flags.out);
      try {
        // A seed of its own: an answer does not depend on the other prompts.
        const optionsOf = (i: number) => ({
          limit: options.maxNewTokens,
          stop,
          sampler: createSampler({ ...options, seed: options.seed + i }),
        });
        const inputs = prompts.map(({ ids }) => ids);
        const answers = new Map<number, readonly number[]>();
        let written = 0;
        for (const [number, answer] of generateAll(decoders, inputs, optionsOf)) {
          tokens += answer.length;
          answers.set(number, answer);
          // Lines are in the order of the prompts.
          for (let ids = answers.get(written); ids; ids = answers.get(++written)) {
            answers.delete(written);
            const prompt = prompts[written]!;
            writeLine(fd, flags.out, `${JSON.stringify(prompt.withAnswer(tokenizer.decode([...ids], { skipSpecial: true })))}\n`);
            const { where } = prompt;
            if (flags.json) printEvent({ type: "answer", number: written + 1, of: prompts.length, where, tokens: ids.length });
          }
        }
      } finally {
        closeSync(fd);
      }
      const seconds = (performance.now() - begin) / 1000;
      if (flags.json) {
        printEvent({ type: "written", files: [flags.out], seconds });
        return 0;
      }
      process.stderr.write(
        `${prompts.length} answers, ${tokens} tokens in ${seconds.toFixed(1)} s (${(tokens / seconds).toFixed(1)} tokens/s): ${flags.out}\n`,
      );
      return 0;
    },
    { onNote: printNote },
  );
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
