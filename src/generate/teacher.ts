import { inPrecision } from "../autodiff/precision.ts";
import type { MicroBatch } from "../data/samples/batch.ts";
import { IGNORED } from "../data/samples/sample.ts";
import { adapterTuning, withReplacedWeights, writeAdapterWeights } from "../load/adapter.ts";
import { batchBytes, createBatchMemory } from "../load/batch-memory.ts";
import type { OpenModel } from "../load/open-model.ts";
import { openReadWeights, type ReadWeightsOptions } from "../load/open-weights.ts";
import { computeType, type WeightStorage, weightTypeOf } from "../load/weights.ts";
import { buildLogits, buildSegments } from "../models/chain/segments.ts";
import { createPrograms } from "../runtime/chain.ts";
import type { Executor } from "../runtime/executor.ts";
import { carriedBytes, carriedTotal, placeCarried } from "../runtime/carried.ts";
import { createForward, forwardExtent } from "../runtime/forward.ts";
import { readTensor } from "../runtime/resident.ts";
import { createStepWords, stepWordBytes } from "../runtime/step-words.ts";

/** Tokens whose logits are in memory at a time. */
const ROWS = 64;

export interface TeacherOptions {
  readonly model: OpenModel & WeightStorage;
  /** Tokens of a micro-batch. */
  readonly tokens: number;
  /** Tokens that are told of each place. */
  readonly top: number;
  readonly temperature: number;
  /** Ids from here on are none of the student's. */
  readonly vocabulary: number;
}

/** The likeliest tokens of some places, the same number for each, one place behind the other. */
export interface TopTokens {
  readonly ids: Int32Array;
  readonly logProbabilities: Float32Array;
}

/** A model that says what it finds likely, with its weights in memory. */
export interface Teacher {
  /** Returns what it finds likeliest in the places of the labelled tokens of a micro-batch, in their order. */
  top(batch: MicroBatch): TopTokens;
  close(): void;
}

/**
 * Opens a model to tell what it finds likely. The logits of a micro-batch are made for a few tokens at a time, of the hidden states of all.
 * @throws {UserError} weights that are missing or do not fit
 */
export async function openTeacher(
  executor: Executor,
  options: TeacherOptions,
  weights: ReadWeightsOptions = {},
): Promise<Teacher> {
  const { model, tokens, top, temperature, vocabulary } = options;
  const { adapter } = model;
  const { config, source } = withReplacedWeights(model, adapter);
  const tuning = adapterTuning(adapter, config);
  const segmentOptions = { tokens, tuning, weightType: weightTypeOf(executor, source, model) };
  const body = buildSegments(config, segmentOptions).slice(0, -1);
  const chain = inPrecision([...body, buildLogits(config, segmentOptions, ROWS)], computeType(executor, model.dtype));
  const programs = createPrograms(executor);
  const size = { tokens, weighted: false, rows: ROWS };
  const extent = forwardExtent(chain, programs);
  const logitsBytes = 4 * ROWS * config.vocabSize;
  const carried = carriedBytes([chain]);
  const bytes = extent + logitsBytes + batchBytes(config, size) + carriedTotal(carried) + stepWordBytes(chain.length);
  const { resident, streamed } = await openReadWeights(executor, { source, programs, chains: [chain], bytes, tokens }, weights);
  if (adapter) writeAdapterWeights({ executor, resident, streamed, source, config, tuning }, adapter);
  const inputs = createBatchMemory(executor, config, size, streamed?.rows);
  const memory = {
    resident,
    window: streamed?.window ?? null,
    batch: inputs.addresses,
    carried: placeCarried(carried, (bytes) => executor.reserve(bytes)),
    ...createStepWords(executor, chain.length),
  };
  const arena = executor.reserve(extent);
  const logits = executor.reserve(logitsBytes);
  const hidden = createForward(executor, programs, chain.slice(0, -1), arena, memory);
  const head = createForward(executor, programs, chain.slice(-1), arena, memory, logits, hidden.output);
  return {
    top(batch) {
      inputs.load({ ...batch, weights: null }, 1);
      hidden.run();
      const places = [...batch.labels.keys()].filter((t) => batch.labels[t] !== IGNORED);
      const found: TopTokens = {
        ids: new Int32Array(places.length * top),
        logProbabilities: new Float32Array(places.length * top),
      };
      const rows = new Int32Array(ROWS);
      for (let from = 0; from < places.length; from += ROWS) {
        const own = places.slice(from, from + ROWS);
        rows.fill(0).set(own);
        inputs.setRows(rows);
        head.run();
        const values = readTensor(executor, logits, { dtype: "f32", shape: [own.length, config.vocabSize] });
        for (const i of own.keys()) {
          const row = values.subarray(i * config.vocabSize, (i + 1) * config.vocabSize);
          putLikeliest(row, { top, temperature, vocabulary }, found, (from + i) * top);
        }
      }
      return found;
    },
    close: () => streamed?.close(),
  };
}

/** Finds the greatest logits of a row in order, of equal ones the first, and their log softmax at a temperature over the whole row. */
function putLikeliest(
  row: Float32Array,
  { top, temperature, vocabulary }: Pick<TeacherOptions, "top" | "temperature" | "vocabulary">,
  { ids, logProbabilities }: TopTokens,
  at: number,
): void {
  const [best, values] = [ids.subarray(at, at + top), logProbabilities.subarray(at, at + top)];
  values.fill(-Infinity);
  const most = row.reduce((max, value) => Math.max(max, value), -Infinity);
  let sum = 0;
  for (let id = 0; id < row.length; id++) {
    const value = row[id]!;
    sum += Math.exp((value - most) / temperature);
    if (id >= vocabulary || value <= values[top - 1]!) continue;
    let place = top - 1;
    for (; place > 0 && values[place - 1]! < value; place--) {
      values[place] = values[place - 1]!;
      best[place] = best[place - 1]!;
    }
    values[place] = value;
    best[place] = id;
  }
  for (let i = 0; i < top; i++) values[i] = (values[i]! - most) / temperature - Math.log(sum);
}
