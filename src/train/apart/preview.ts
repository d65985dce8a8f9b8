import { UserError } from "../../base/errors.ts";
import { createUnusedCounter, type Mapping, PLAIN_READING } from "../../data/examples/columns.ts";
import { readEntries } from "../../data/examples/dataset.ts";
import { readMapping } from "../../data/examples/formats.ts";
import { trainingFiles } from "../../data/examples/sources.ts";
import { checkData, type DataReport } from "../../data/samples/check.ts";
import { createSampleMaker, type SampleMaker } from "../../data/samples/sample-maker.ts";
import { type SamplePart, sampleParts } from "../../data/samples/sample.ts";
import type { Tokenizer } from "../../data/tokens/tokenizer.ts";
import { findModel } from "../../load/find-model.ts";
import { openFound } from "../../load/open-model.ts";
import { contextLimit } from "../../models/context.ts";
import { sequenceLengthOf, type TrainConfig } from "../config.ts";
import { predictionOf } from "../labels.ts";
import { runDate, startOfDay } from "../run/date.ts";

/** Says which examples of a data file are wanted. */
export interface PreviewOptions {
  /** The line, item or row of the first one. */
  readonly from: number;
  readonly count: number;
  /** The whole file is read too, and everything reported that training on it would stumble over. */
  readonly whole: boolean;
}

/** An example as the model sees it, or why it is none. */
export interface PreviewRow {
  /** The line, item or row. */
  readonly number: number;
  readonly where: string;
  /** A conversation may become several. */
  readonly samples: readonly {
    readonly tokens: number;
    readonly trained: number;
    /** Cut where the masking changes. */
    readonly parts: readonly SamplePart[];
    /** The sample is longer than what is shown of it. */
    readonly isCut: boolean;
  }[];
  readonly error: string | null;
}

export interface Preview {
  readonly sequenceLength: number;
  /** Columns of the examples by the names that they have in the file, each with the beginning of a value. */
  readonly columns: readonly { readonly name: string; readonly value: string }[];
  readonly rows: readonly PreviewRow[];
  readonly report: DataReport | null;
}

/** Characters of a sample that are shown, and of a column's value. */
const MOST_SHOWN = 20_000;
const MOST_VALUE = 200;
/** Problems of a kind that are listed one by one. */
const LISTED = 100;

/**
 * Reads examples of a run's training file as training will: with the model's tokenizer and template, and the run's columns and roles. Examples that
 * are none are told as such.
 * @throws {UserError} a file or a model that cannot be read
 */
export async function preview(asked: TrainConfig, { from, count, whole }: PreviewOptions): Promise<Preview> {
  const found = await findModel(asked);
  const model = openFound(found, { onNote: () => {}, chats: asked, check: "kept", predicts: predictionOf(asked) });
  try {
    const { tokenizer, config } = model;
    const maker = createSampleMaker(tokenizer, {
      now: startOfDay(runDate(asked)),
      // Examples that are too long are reported, not refused.
      maxLength: Number.MAX_SAFE_INTEGER,
      vocabSize: config.vocabSize,
      surround: config.encoder !== null,
      asks: asked.optionTokens || config.textHead?.options !== undefined,
      eosId: config.eosTokenIds[0] ?? null,
    });
    const mapping = readMapping(asked);
    const [file] = trainingFiles(asked.data);
    const sequenceLength = sequenceLengthOf(asked, contextLimit(config));
    return {
      sequenceLength,
      columns: await columnsOf(file!, count),
      rows: await rowsOf(file!, { from, count, mapping, maker, tokenizer }),
      report: whole ? await checkData(file!, { maxLength: sequenceLength, mapping, maker, listed: LISTED }) : null,
    };
  } finally {
    model.close();
  }
}

/** The columns of a file's first examples, whatever they mean. */
async function columnsOf(file: string, count: number): Promise<Preview["columns"]> {
  const columns = new Map<string, string>();
  let left = count;
  for await (const entry of readEntries(file, PLAIN_READING)) {
    if (left-- === 0) break;
    try {
      entry.parse((record) => {
        for (const [name, value] of Object.entries(record)) {
          const text = typeof value === "string" ? value : JSON.stringify(value);
          if (!columns.has(name)) columns.set(name, (text ?? "").slice(0, MOST_VALUE));
        }
        return record;
      });
    } catch (error) {
      // The columns are there, whether they are an example or not.
      if (!(error instanceof UserError)) throw error;
    }
  }
  return [...columns].map(([name, value]) => ({ name, value }));
}

interface RowsOptions extends Pick<PreviewOptions, "from" | "count"> {
  readonly mapping: Mapping;
  readonly maker: SampleMaker;
  readonly tokenizer: Tokenizer;
}

async function rowsOf(file: string, { from, count, mapping, maker, tokenizer }: RowsOptions): Promise<PreviewRow[]> {
  const rows: PreviewRow[] = [];
  for await (const { number, where, parse } of readEntries(file, { mapping, unused: createUnusedCounter().count })) {
    if (number < from) continue;
    if (rows.length === count) break;
    try {
      const samples = maker.samples(parse()).map((sample) => ({
        tokens: sample.ids.length,
        trained: sample.labels.reduce((sum, label) => sum + Number(label >= 0), 0),
        ...cut(sampleParts(tokenizer, sample)),
      }));
      rows.push({ number, where, samples, error: null });
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      rows.push({ number, where, samples: [], error: error.message });
    }
  }
  return rows;
}

/** The beginning of a sample. */
function cut(parts: readonly SamplePart[]): { readonly parts: readonly SamplePart[]; readonly isCut: boolean } {
  let left = MOST_SHOWN;
  const shown = parts.flatMap(({ text, trained }) => {
    const kept = text.slice(0, Math.max(0, left));
    left -= text.length;
    return kept === "" ? [] : [{ text: kept, trained }];
  });
  return { parts: shown, isCut: left < 0 };
}
