import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { expectNoFile, writeTextAtomic } from "../../base/files/files.ts";
import { readMapping } from "../../data/examples/formats.ts";
import type { DataRecord } from "../../data/examples/values.ts";
import { createSampleStore } from "../../data/samples/sample-store.ts";
import { judgeAll, judgedSamples } from "../../generate/texts/judge.ts";
import { expectRanker, ranked } from "../../generate/texts/ranking.ts";
import { withModel } from "../../load/open-model.ts";
import { nameOf } from "../../load/text-head.ts";
import { exampleFor } from "../../objectives/index.ts";
import { rerank as objective } from "../../objectives/rerank.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { type CallOptions, checkOf, MODEL_OPTIONS, readingOf, validateOptions } from "../options.ts";
import { readText, type ReadText, readTexts } from "./read-texts.ts";

const COMMON = {
  ...MODEL_OPTIONS,
  sequenceLength: z.int().min(1).optional().describe("tokens of query and text together, at most (the model's context)"),
  truncate: z.boolean().default(false).describe("cut texts with which that would be more, never the query"),
  top: z.int().min(1).optional().describe("texts of a query that are told, the best ones (all)"),
} as const;

/** Ranks the texts of files, or of standard input. */
export const rerankFileSchema = z.strictObject({
  ...COMMON,
  data: z
    .string()
    .min(1)
    .describe(
      'queries with their texts, in files as train takes them ({"query", "docs"}, {"query", "pos", "neg"}, {"query", "text"}), or - for standard input; with --query texts: {"text"}, or lines of a .txt file',
    ),
  query: z.string().min(1).optional().describe("the one query of all texts"),
  columns: trainConfigSchema.shape.columns,
  out: z.string().min(1).optional().describe("JSONL file to write, one line for each query (standard output)"),
  overwrite: z.boolean().default(false).describe("replace the file to write"),
});

/** Ranks texts that are in memory. */
export const rerankTextsSchema = z.strictObject({
  ...COMMON,
  query: z.string().min(1),
  texts: z.array(z.string().min(1)).min(1),
});

export type RerankOptions = z.input<typeof rerankFileSchema> | z.input<typeof rerankTextsSchema>;

export interface RankedText {
  /** The place of the text among those of its query, from 0. */
  readonly index: number;
  readonly text: string;
  /** The number that the model's head gives. */
  readonly score: number;
  /** The same as a number between 0 and 1, unless the model's files say that it stays as it is. */
  readonly relevance_score: number;
}

export interface RankedQuery {
  readonly query: string;
  /** The best text first. */
  readonly results: readonly RankedText[];
}

export interface RerankResult {
  /** In the order in which they came first. */
  readonly queries: readonly RankedQuery[];
  readonly texts: number;
  readonly tokens: number;
  readonly seconds: number;
}

/**
 * Puts the texts of each query in the order in which a trained cross-encoder finds that they answer it. The texts of a query may lie in several records. Nothing is
 * written before all are ranked. The event loop gets in between two rows.
 * @throws the signal's reason
 * @throws {UserError} texts that are none or too long, a model that ranks none, a file that is in the way
 */
export async function rerank(options: RerankOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<RerankResult> {
  const flags = "texts" in options ? validateOptions(rerankTextsSchema, options) : validateOptions(rerankFileSchema, options);
  const out = "out" in flags ? flags.out : undefined;
  if ("overwrite" in flags && out !== undefined) expectNoFile(out, flags.overwrite);
  signal?.throwIfAborted();
  const onNote = (text: string) => sink({ type: "note", text });
  return withModel(
    flags,
    async (model, executor) => {
      const { classifier } = model;
      if (classifier === null)
        throw new UserError(
          `${nameOf(model)} ranks no texts; train a model with --objective rerank, or give the folder of a cross-encoder`,
        );
      expectRanker(classifier, nameOf(model));
      const maker = judgedSamples(model, { maxTokens: flags.sequenceLength, truncate: flags.truncate });
      const store = createSampleStore(() => "");
      /** By query, its texts and the numbers of their samples. */
      const queries = new Map<string, { readonly text: string; readonly sample: number }[]>();
      let count = 0;
      for await (const read of recordsOf(flags, onNote)) {
        signal?.throwIfAborted();
        const example = exampleFor(objective, read.example);
        if (example.kind !== "ranked") throw new Error("an example that is not ranked");
        const texts = queries.get(example.query) ?? [];
        queries.set(example.query, texts);
        for (const [i, sample] of maker.samples(example).entries()) {
          store.add(sample, count + 1);
          texts.push({ text: example.texts[i]!, sample: count++ });
        }
      }
      if (count === 0) throw new UserError("there is no text to rank");
      const begin = performance.now();
      const samples = store.finish();
      const reading = readingOf(flags, onNote, signal);
      const scores = await judgeAll(executor, { model, classifier, samples, signal }, reading);
      const told = Array.from(queries, ([query, texts]): RankedQuery => {
        const places = ranked(
          texts.map(({ sample }) => scores[sample]!),
          classifier.activation,
        );
        const results = places.slice(0, flags.top).map(({ index, score, relevance }) => {
          return { index, text: texts[index]!.text, score, relevance_score: relevance };
        });
        return { query, results };
      });
      if (out !== undefined) writeTextAtomic(out, told.map((each) => `${JSON.stringify(each)}\n`).join(""));
      return { queries: told, texts: count, tokens: samples.tokens, seconds: (performance.now() - begin) / 1000 };
    },
    { onNote, check: checkOf(flags), predicts: "anything" },
  );
}

type Flags = z.output<typeof rerankFileSchema> | z.output<typeof rerankTextsSchema>;

function recordsOf(flags: Flags, onNote: (text: string) => void): AsyncIterable<ReadText> | Iterable<ReadText> {
  const { query } = flags;
  if ("texts" in flags) return textsInMemory(flags.query, flags.texts);
  const complete = (record: DataRecord) => withStandIns(query === undefined ? record : withQuery(record, query));
  return readTexts(flags.data, { mapping: readMapping(flags), onNote, complete });
}

function* textsInMemory(query: string, texts: readonly string[]): Generator<ReadText> {
  for (const [i, text] of texts.entries()) yield readText({ query, text }, `text ${i + 1}`, withStandIns);
}

/** @throws {UserError} a record with a query of its own */
function withQuery(record: DataRecord, query: string): DataRecord {
  if (Object.hasOwn(record, "query"))
    throw new UserError(`--query: the records of --data have queries of their own; give only one of both`);
  return { ...record, query };
}

/** A text without a label is read as one with it: nothing looks at the label. */
function withStandIns(record: DataRecord): DataRecord {
  const { text, docs, label, labels } = record;
  if (text !== undefined && (label ?? null) === null) return { ...record, label: 0 };
  if (Array.isArray(docs) && (labels ?? null) === null) return { ...record, labels: docs.map(() => 0) };
  return record;
}
