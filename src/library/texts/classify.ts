import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { expectNoFile, writeTextAtomic } from "../../base/files/files.ts";
import { readMapping } from "../../data/examples/formats.ts";
import type { DataRecord } from "../../data/examples/values.ts";
import { createSampleStore } from "../../data/samples/sample-store.ts";
import { judgeAll, judgedSamples } from "../../generate/texts/judge.ts";
import { nameOf } from "../../load/text-head.ts";
import { withModel } from "../../load/open-model.ts";
import { type Judgement, judgementOf } from "../../objectives/judgement.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { type CallOptions, CHAT_OPTIONS, checkOf, MODEL_OPTIONS, readingOf, validateOptions } from "../options.ts";
import { readText, type ReadText, readTexts } from "./read-texts.ts";

const COMMON = {
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  sequenceLength: z.int().min(1).optional().describe("tokens of a text, at most (the model's context)"),
  truncate: z.boolean().default(false).describe("cut texts that are longer than the sequence length"),
} as const;

/** Judges the texts of files, or of standard input. */
export const classifyFileSchema = z.strictObject({
  ...COMMON,
  data: z
    .string()
    .min(1)
    .describe(
      'texts, in files as train takes them ({"text"}, {"text", "text_pair"}, {"messages"}, {"prompt", "completion"}), lines of a .txt file, or - for standard input',
    ),
  columns: trainConfigSchema.shape.columns,
  roles: trainConfigSchema.shape.roles,
  out: z.string().min(1).optional().describe("JSONL file to write, one line for each text (standard output)"),
  overwrite: z.boolean().default(false).describe("replace the file to write"),
});

const message = z.looseObject({ role: z.string(), content: z.unknown().optional() });

/** Judges texts that are in memory: texts, pairs of texts, prompts with answers, or conversations. */
export const classifyTextsSchema = z.strictObject({
  ...COMMON,
  texts: z
    .array(
      z.union([
        z.string(),
        z.strictObject({ text: z.string(), text_pair: z.string() }),
        z.strictObject({ prompt: z.string(), completion: z.string() }),
        z.array(message).min(1),
      ]),
    )
    .min(1),
});

export type ClassifyOptions = z.input<typeof classifyFileSchema> | z.input<typeof classifyTextsSchema>;

/** A text and what a model says of it. */
export type JudgedText = DataRecord & Judgement;

export interface ClassifyResult {
  /** In the order of the texts. */
  readonly texts: readonly JudgedText[];
  readonly tokens: number;
  readonly seconds: number;
}

/**
 * Judges texts with a trained classifier or reward model: those of a file, or texts in memory. Nothing is written before all are judged. The event
 * loop gets in between two rows.
 * @throws the signal's reason
 * @throws {UserError} texts that are none or too long, a model that predicts tokens, a file that is in the way
 */
export async function classify(options: ClassifyOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<ClassifyResult> {
  const flags = "texts" in options ? validateOptions(classifyTextsSchema, options) : validateOptions(classifyFileSchema, options);
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
          `${nameOf(model)} predicts tokens and judges no texts; train a classifier with --objective classify, or give its folder`,
        );
      const maker = judgedSamples(model, { maxTokens: flags.sequenceLength, truncate: flags.truncate });
      const records: DataRecord[] = [];
      const store = createSampleStore(() => "");
      const texts =
        "texts" in flags
          ? textsInMemory(flags.texts)
          : readTexts(flags.data, { mapping: readMapping(flags), onNote, complete: withStandIn });
      for await (const text of texts) {
        signal?.throwIfAborted();
        const { example, record } = textOf(text);
        store.add(maker.samples(example)[0]!, records.push(record));
      }
      const samples = store.finish();
      if (samples.count === 0) throw new UserError("there is no text to judge");
      const begin = performance.now();
      const numbers = await judgeAll(executor, { model, classifier, samples, signal }, readingOf(flags, onNote, signal));
      const judged = numbers.map((given, i): JudgedText => ({ ...records[i], ...judgementOf(classifier, given) }));
      if (out !== undefined) writeTextAtomic(out, judged.map((each) => `${JSON.stringify(each)}\n`).join(""));
      return { texts: judged, tokens: samples.tokens, seconds: (performance.now() - begin) / 1000 };
    },
    { onNote, check: checkOf(flags), predicts: "anything" },
  );
}

/** A text without a label is read as one with it: nothing looks at the label. */
const STAND_IN = "-";

const withStandIn = (record: DataRecord): DataRecord =>
  Object.hasOwn(record, "text") || Object.hasOwn(record, "messages") ? { ...record, label: STAND_IN } : record;

/** Keys of a text that stand in its line of the result. */
const TEXT_KEYS = ["text", "text_pair", "messages", "tools", "prompt", "completion"];

/** The text as it came, without a label. @throws {UserError} an example of another kind */
function textOf({ example, record }: ReadText): ReadText {
  if (example.kind !== "labelled" && example.kind !== "completion")
    throw new UserError(
      `${example.where}: expected {"text"}, {"text", "text_pair"}, {"messages"} or {"prompt", "completion"}; a text to be judged is none of the other formats`,
    );
  const own = TEXT_KEYS.filter((key) => (record[key] ?? null) !== null);
  return { example, record: Object.fromEntries(own.map((key) => [key, record[key]])) };
}

function* textsInMemory(texts: z.output<typeof classifyTextsSchema>["texts"]): Generator<ReadText> {
  for (const [i, text] of texts.entries()) {
    const record = typeof text === "string" ? { text } : Array.isArray(text) ? { messages: text } : text;
    yield readText(record, `text ${i + 1}`, withStandIn);
  }
}
