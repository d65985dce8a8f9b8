import type { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { flagName, suggestion } from "../../base/names.ts";
import { exportGguf, exportGgufOptionsSchema } from "../../library/export-gguf.ts";
import { exportOnnx, exportOnnxOptionsSchema } from "../../library/export-onnx.ts";
import type { CallOptions } from "../../library/options.ts";
import { validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { JSON_FLAG } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { createVerbSink } from "../terminal/verb-events.ts";
import { print } from "../terminal/output.ts";

const schemas = { gguf: exportGgufOptionsSchema.extend(JSON_FLAG), onnx: exportOnnxOptionsSchema.extend(JSON_FLAG) } as const;
type Format = keyof typeof schemas;

/** The flags of all formats; those of one alone begin with its name. */
export const flags = schemas.onnx.extend(schemas.gguf.shape).extend({
  ...described("gguf", ["type", "adapterOnly", "overwrite"]),
  ...described("onnx", ["pooling", "normalize", "dimensions"]),
  out: schemas.gguf.shape.out.describe(
    "gguf: file to write, with NAME.Modelfile for Ollama beside NAME.gguf; onnx: folder to write, which is new or empty",
  ),
});

function described<F extends Format, K extends keyof (typeof schemas)[F]["shape"]>(
  format: F,
  keys: readonly K[],
): Pick<(typeof schemas)[F]["shape"], K> {
  const shape: z.ZodRawShape = schemas[format].shape;
  const entries = keys.map((key) => {
    const flag = shape[key as string] as z.ZodType;
    return [key, flag.describe(`${format}: ${flag.description}`)];
  });
  return Object.fromEntries(entries) as Pick<(typeof schemas)[F]["shape"], K>;
}

export const words: readonly Format[] = ["gguf", "onnx"];

export function help(): string {
  return `Writes a model for llama.cpp and Ollama (gguf), or a text encoder for ONNX Runtime and transformers.js (onnx).

Usage: remat export gguf --model DIR [--adapter DIR] --out FILE [--flag value ...]
       remat export onnx --model DIR [--adapter DIR] --out FOLDER [--flag value ...]

Try it: ollama create mine -f NAME.Modelfile, in the folder of NAME.gguf.

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(flags, args);
  const [given, ...others] = parsed.words;
  const format = words.find((word) => word === given);
  if (format === undefined || others.length > 0) {
    throw new UserError(
      given === undefined
        ? "export needs a format: remat export gguf --model DIR --out FILE, or remat export onnx --model DIR --out FOLDER"
        : `export takes one format, ${words.join(" or ")}, not ${JSON.stringify(parsed.words.join(" "))}${suggestion(given, words)}`,
    );
  }
  const foreign = Object.keys(parsed.values).find((key) => !(key in schemas[format].shape));
  if (foreign !== undefined) throw new UserError(`${flagName(foreign)} is no flag of export ${format}; see --help`);
  const begin = performance.now();
  const { files, text, json } = await (format === "gguf" ? writeGguf : writeOnnx)(parsed.values);
  if (json) printEvent({ type: "written", files, seconds: (performance.now() - begin) / 1000 });
  else print(text);
  return 0;
}

interface Written {
  readonly files: string[];
  readonly text: string;
  readonly json: boolean;
}

const sinkOf = (json: boolean): Pick<CallOptions, "sink"> => ({ sink: createVerbSink(json) });

async function writeGguf(values: Readonly<Record<string, unknown>>): Promise<Written> {
  const { json, ...options } = validateConfig(schemas.gguf, values);
  const { out, modelfile, type, content } = await exportGguf(options, sinkOf(json));
  const what = { model: "", "merged model": ", adapter merged in", adapter: ", the adapter alone" }[content];
  return { files: [out, modelfile], text: `${out} (${type}${what}) and ${modelfile}`, json };
}

async function writeOnnx(values: Readonly<Record<string, unknown>>): Promise<Written> {
  const { json, ...options } = validateConfig(schemas.onnx, values);
  const { out, outputs } = await exportOnnx(options, sinkOf(json));
  return { files: [out], text: `${out} (onnx/model.onnx: ${outputs.join(", ")})`, json };
}
