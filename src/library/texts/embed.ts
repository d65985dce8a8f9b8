import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { type AtomicFile, expectNoFile, openAtomic } from "../../base/files/files.ts";
import { createBreath } from "../../base/process/event-loop.ts";
import { readMapping } from "../../data/examples/formats.ts";
import type { DataRecord } from "../../data/examples/values.ts";
import { createSampleStore } from "../../data/samples/sample-store.ts";
import { openEmbedder, type TextEmbedder } from "../../generate/texts/embedder.ts";
import { embeddingOf } from "../../load/embedder.ts";
import { withModel } from "../../load/open-model.ts";
import { POOLINGS } from "../../models/config.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { type CallOptions, checkOf, MODEL_OPTIONS, readingOf, validateOptions } from "../options.ts";
import { npyHeader } from "./npy.ts";
import { readText, type ReadText, readTexts } from "./read-texts.ts";

/** Options of everything that makes embeddings of a model's own kind. */
export const EMBEDDING_OPTIONS = {
  pooling: z
    .enum(POOLINGS)
    .optional()
    .describe(
      "what of the last hidden states is a text's embedding: mean of its tokens, cls (the first), last (as the model's folder says; else mean of a text encoder, last of other models)",
    ),
  normalize: z
    .boolean()
    .optional()
    .describe("bring embeddings to length 1, or with --no-normalize not (as the model's folder says; else not)"),
  dimensions: z.int().min(1).optional().describe("numbers of an embedding that are kept, the first ones (all)"),
} as const;

const COMMON = {
  ...MODEL_OPTIONS,
  ...EMBEDDING_OPTIONS,
  prompt: z.string().optional().describe("text in front of each text, such as 'query: '"),
  promptName: z
    .string()
    .min(1)
    .optional()
    .describe("the same by the name that the model's folder has for it, such as query (the folder's default, else none)"),
  sequenceLength: z.int().min(1).optional().describe("tokens of a text, at most (as the model's folder says, else its context)"),
  truncate: z.boolean().default(false).describe("cut texts that are longer than the sequence length"),
} as const;

/** Embeds the texts of files, or of standard input. */
export const embedFileSchema = z.strictObject({
  ...COMMON,
  data: z.string().min(1).describe('texts: {"text"} in files as train takes them, lines of a .txt file, or - for standard input'),
  columns: trainConfigSchema.shape.columns,
  out: z
    .string()
    .min(1)
    .optional()
    .describe("file to write: .jsonl, one line for each text, or .npy, one row of float32 for each (JSONL on standard output)"),
  overwrite: z.boolean().default(false).describe("replace the file to write"),
});

/** Embeds texts that are in memory. */
export const embedTextsSchema = z.strictObject({ ...COMMON, texts: z.array(z.string()).min(1) });

export type EmbedOptions = z.input<typeof embedFileSchema> | z.input<typeof embedTextsSchema>;

/** A text, with its `id` where it has one, and its embedding. */
export type EmbeddedText = DataRecord & { readonly embedding: Float32Array };

export interface EmbedResult {
  /** In the order of the texts; empty where they were written to a file. */
  readonly texts: readonly EmbeddedText[];
  readonly count: number;
  /** Numbers of an embedding. */
  readonly dimensions: number;
  readonly tokens: number;
  readonly seconds: number;
}

/** Texts that are embedded at a time, before their embeddings are passed on. */
const WINDOW = 1024;

/**
 * Makes embeddings of texts with an encoder or a model that generates text, as sentence-transformers' `encode` makes them of the same folder: of the texts of a file, or
 * of texts in memory. All texts are read before the first is embedded; the file appears whole or not at all. The event loop gets in between
 * two rows.
 * @throws the signal's reason
 * @throws {UserError} texts that are none or too long, a model that judges texts, a file that is in the way
 */
export async function embed(options: EmbedOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<EmbedResult> {
  const flags = "texts" in options ? validateOptions(embedTextsSchema, options) : validateOptions(embedFileSchema, options);
  const target = "texts" in flags || flags.out === undefined ? null : targetOf(flags.out, flags.overwrite);
  signal?.throwIfAborted();
  const onNote = (text: string) => sink({ type: "note", text });
  return withModel(
    flags,
    async (model, executor) => {
      const embedding = embeddingOf(model, flags);
      const embedder = await openEmbedder(
        executor,
        { model, embedding, truncate: flags.truncate },
        readingOf(flags, onNote, signal),
      );
      try {
        const texts =
          "texts" in flags ? textsInMemory(flags.texts) : readTexts(flags.data, { mapping: readMapping(flags), onNote });
        return await embedAll(embedder, texts, target, signal);
      } finally {
        embedder.close();
      }
    },
    // Rows of hundreds of tokens are what training has too.
    { onNote, check: checkOf(flags), predicts: "anything", matmul: "auto" },
  );
}

async function embedAll(
  embedder: TextEmbedder,
  texts: AsyncIterable<ReadText> | Iterable<ReadText>,
  target: Target | null,
  signal: AbortSignal | undefined,
): Promise<EmbedResult> {
  const { maker, dimensions } = embedder;
  const records: DataRecord[] = [];
  const store = createSampleStore(() => "");
  for await (const { example, record } of texts) {
    signal?.throwIfAborted();
    if (example.kind !== "text")
      throw new UserError(
        `${example.where}: expected {"text"}, which an embedding is made of; --columns text=NAME says what its name is in the file`,
      );
    store.add(maker.alone(example.text, example.where), records.push(kept(record)));
  }
  const samples = store.finish();
  if (samples.count === 0) throw new UserError("there is no text to embed");
  const begin = performance.now();
  const breathe = createBreath(signal);
  const found: EmbeddedText[] = [];
  const out = target === null ? null : target.open({ count: samples.count, dimensions });
  try {
    for (let from = 0; from < samples.count; from += WINDOW) {
      const window = Array.from({ length: Math.min(WINDOW, samples.count - from) }, (_, i) => samples.sample(from + i));
      const embeddings = await embedder.embed(window, { breathe });
      for (const [i, embedding] of embeddings.entries()) {
        const text = { ...records[from + i], embedding };
        if (out === null) found.push(text);
        else out.write(target!.bytesOf(text));
      }
    }
  } catch (error) {
    out?.discard();
    throw error;
  }
  out?.finish();
  const seconds = (performance.now() - begin) / 1000;
  return { texts: found, count: samples.count, dimensions, tokens: samples.tokens, seconds };
}

/** Keys of a record that stand in its line of the result. */
const KEPT_KEYS = ["id", "text"];

const kept = (record: DataRecord): DataRecord =>
  Object.fromEntries(KEPT_KEYS.flatMap((key) => ((record[key] ?? null) === null ? [] : [[key, record[key]]])));

function* textsInMemory(texts: readonly string[]): Generator<ReadText> {
  for (const [i, text] of texts.entries()) yield readText({ text }, `text ${i + 1}`, (record) => record);
}

/** A line of JSON: an embedding's numbers with as many digits as float32 has. */
export function lineOf({ embedding, ...record }: EmbeddedText): string {
  return JSON.stringify({ ...record, embedding: Array.from(embedding, (value) => Number(value.toPrecision(9))) });
}

/** A kind of file that embeddings are written to. */
interface Target {
  open(size: { readonly count: number; readonly dimensions: number }): AtomicFile;
  bytesOf(text: EmbeddedText): Uint8Array;
}

/** @throws {UserError} a file that is in the way, or of no kind that is written */
function targetOf(path: string, overwrite: boolean): Target {
  const ending = /\.(jsonl|npy)$/.exec(path)?.[1];
  if (ending === undefined) throw new UserError(`--out ${path}: expected a name that ends with .jsonl or .npy`);
  expectNoFile(path, overwrite);
  if (ending === "jsonl") return { open: () => openAtomic(path), bytesOf: (text) => Buffer.from(`${lineOf(text)}\n`) };
  return {
    open({ count, dimensions }) {
      const file = openAtomic(path);
      file.write(npyHeader([count, dimensions]));
      return file;
    },
    bytesOf: ({ embedding }) => new Uint8Array(embedding.buffer, embedding.byteOffset, embedding.byteLength),
  };
}
