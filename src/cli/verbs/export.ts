import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { z } from "zod";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { UserError } from "../../base/errors.ts";
import { stopTokens } from "../../generate/generate.ts";
import { readGenerationConfig } from "../../generate/sampling.ts";
import { exportAdapter } from "../../gguf/adapter.ts";
import { endOfTurn } from "../../gguf/chat.ts";
import { exportModel } from "../../gguf/model.ts";
import { modelfile } from "../../gguf/modelfile.ts";
import { hasWindows } from "../../gguf/names.ts";
import { spaceTaking } from "../../gguf/tokenizer.ts";
import type { ModelConfig } from "../../models/config.ts";
import { contextLimit } from "../../models/rope.ts";
import { makeFolder, writeTextAtomic } from "../../base/files.ts";
import { validateConfig } from "../flags/config-file.ts";
import { printEvent } from "../terminal/display.ts";
import { printNote } from "../terminal/terminal.ts";
import { describeFlags, parseFlags, suggestion } from "../flags/flags.ts";
import { openModel } from "../../load/open-model.ts";

export const flags = z.strictObject({
  model: z.string().min(1).optional().describe("model folder or hub name (default: the adapter's base model)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder: merged in, or with --adapter-only written alone"),
  out: z.string().min(1).describe("file to write; a Modelfile for Ollama is written beside it"),
  type: z.enum(["f16", "bf16", "q8_0", "q4_0", "f32"]).default("f16").describe("type of the matrices"),
  adapterOnly: z.boolean().default(false).describe("write the adapter without its base model"),
  overwrite: z.boolean().default(false).describe("replace files that are there"),
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
});

export const words = ["gguf"];

export function help(): string {
  return `Writes a model for llama.cpp and Ollama, with its tokenizer and chat template.

Usage: remat export gguf --model DIR [--adapter DIR] --out FILE [--flag value ...]

Try it: ollama create NAME -f Modelfile, in the folder of FILE.

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(flags, args);
  const [format, ...others] = parsed.words;
  if (format !== "gguf" || others.length > 0) {
    throw new UserError(
      format === undefined
        ? "export needs a format: remat export gguf --model DIR --out FILE"
        : `export takes one format, gguf, not ${JSON.stringify(parsed.words.join(" "))}${suggestion(format, words)}`,
    );
  }
  const begin = performance.now();
  const { out, type, adapterOnly, overwrite, json, ...named } = validateConfig(flags, parsed.values);
  const companion = join(dirname(out), "Modelfile");
  for (const path of [out, companion]) {
    if (existsSync(path) && !overwrite) throw new UserError(`${path} exists; choose another place, or give --overwrite`);
  }
  const model = await openModel(named, { onNote: printNote });
  try {
    const { config, tokenizer, adapter } = model;
    if (adapterOnly && adapter === null) throw new UserError("--adapter-only needs --adapter");
    makeFolder(dirname(out));
    if (adapterOnly) exportAdapter(out, adapter!, config, type);
    else exportModel(out, model, type);
    const ids = stopTokens(config, tokenizer).add(endOfTurn(tokenizer) ?? -1);
    const stop = [...tokenizer.specialTokens].filter(([, id]) => ids.has(id)).map(([token]) => token);
    const file = `./${basename(out)}`;
    const { values: sampling } = readGenerationConfig(model.folder);
    const [from, alone] = adapterOnly ? [model.folder, file] : [file, null];
    writeTextAtomic(companion, modelfile(from, alone, tokenizer, stop, sampling));
    for (const note of notes(config, tokenizer)) process.stderr.write(`note: ${note}\n`);
    if (json) printEvent({ type: "written", files: [out, companion], seconds: (performance.now() - begin) / 1000 });
    else
      console.log(
        `${out} (${type}${adapterOnly ? ", the adapter alone" : adapter ? ", adapter merged in" : ""}) and ${companion}`,
      );
  } finally {
    model.close();
  }
  return 0;
}

/** What llama.cpp does otherwise, though not so much that it could not be used. */
function notes(config: ModelConfig, tokenizer: Tokenizer): string[] {
  const { slidingWindow } = config;
  const found: string[] = [];
  if (slidingWindow !== null && !hasWindows(config) && contextLimit(config) > slidingWindow)
    found.push(`llama.cpp lets every token see the whole text; this model sees ${slidingWindow} tokens, so keep to that length`);
  if (spaceTaking(tokenizer) === "unknown")
    found.push("llama.cpp keeps white space behind special tokens, which this tokenizer takes away: begin no message with any");
  return found;
}
