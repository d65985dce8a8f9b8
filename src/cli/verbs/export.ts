import { UserError } from "../../base/errors.ts";
import { suggestion } from "../../base/names.ts";
import { exportGguf, exportGgufOptionsSchema } from "../../library/export-gguf.ts";
import { validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { JSON_FLAG } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { createVerbSink } from "../terminal/verb-events.ts";
import { print } from "../terminal/output.ts";

export const flags = exportGgufOptionsSchema.extend(JSON_FLAG);

export const words = ["gguf"];

export function help(): string {
  return `Writes a model for llama.cpp and Ollama, with its tokenizer and chat template.

Usage: remat export gguf --model DIR [--adapter DIR] --out FILE [--flag value ...]

Try it: ollama create mine -f NAME.Modelfile, in the folder of NAME.gguf.

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
  const { json, ...options } = validateConfig(flags, parsed.values);
  const { out, modelfile, type, content } = await exportGguf(options, { sink: createVerbSink(json) });
  if (json) printEvent({ type: "written", files: [out, modelfile], seconds: (performance.now() - begin) / 1000 });
  else {
    const what = { model: "", "merged model": ", adapter merged in", adapter: ", the adapter alone" }[content];
    print(`${out} (${type}${what}) and ${modelfile}`);
  }
  return 0;
}
