import { byteLength, elements } from "../graph/types.ts";
import type { Span, TokenBatch } from "../data/samples/batch.ts";
import type { ModelConfig } from "../models/config.ts";
import type { TableRows } from "./streamed-weights.ts";
import { createRope } from "../models/rotary-tables.ts";
import { batchTypes, type BatchInput, type BatchSize, hasTokenScales, labelPlaces, rotaryInputs } from "../models/parts.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";

/** The batch inputs of all segments, in executor memory; one set serves every number of tokens up to the largest. */
export interface BatchMemory {
  readonly addresses: ReadonlyMap<string, Address>;
  readonly bytes: number;
  /**
   * Takes a batch, whose losses count times `scale`: 1 / labelled tokens of the optimizer step, or where tokens have weights
   * 1 / the sum of those weights.
   */
  load(batch: TokenBatch, scale: number): void;
  /** Keys dropout: `draw` counts micro-batches. */
  setRng(seed: number, draw: number): void;
  setRows(rows: Int32Array): void;
  /** Returns an open head's loss of each of the first `count` tokens. */
  tokenLosses(count: number): Float32Array;
  /** Returns an open head's logits of the first `count` texts, one text behind the other. */
  textLogits(count: number): Float32Array;
  /** Sets an open head's scales, those of what it gave: `factor` times the given ones. */
  setScales(scales: ArrayLike<number>, factor: number): void;
}

export function batchBytes(config: ModelConfig, size: BatchSize): number {
  return Object.values(batchTypes(config, size)).reduce((sum, type) => sum + align(byteLength(type)), 0);
}

/** The end of the example of each token, which are neighbours that begin at one place. */
function endsOf(starts: Int32Array): Int32Array {
  const ends = new Int32Array(starts.length);
  for (let t = starts.length - 1; t >= 0; t--) ends[t] = starts[t + 1] === starts[t] ? ends[t + 1]! : t + 1;
  return ends;
}

/** How much each of so many tokens is of each text's mean, a row for each text that there is room for. */
function meansOf(spans: readonly Span[], room: number, tokens: number): Float32Array {
  if (spans.length > room) throw new Error(`${spans.length} texts, but there is room for ${room}`);
  const means = new Float32Array(room * tokens);
  for (const [text, { from, to }] of spans.entries()) means.fill(1 / (to - from), text * tokens + from, text * tokens + to);
  return means;
}

/** @param rows where the embedding's table lies in its file */
export function createBatchMemory(
  executor: Executor,
  config: ModelConfig,
  size: BatchSize,
  rows: TableRows | null = null,
): BatchMemory {
  const { tokens } = size;
  const weighted = hasTokenScales(size);
  const types = batchTypes(config, size);
  const textRows = new Int32Array(size.texts ?? 0);
  const addresses = new Map<string, Address>(
    Object.entries(types).map(([name, type]) => [name, executor.reserve(byteLength(type))]),
  );
  const known = (name: BatchInput): Address => {
    const address = addresses.get(name);
    if (address === undefined) throw new Error(`the batch has no ${name}`);
    return address;
  };
  const put = (name: BatchInput, data: Int32Array | Float32Array) =>
    executor.write(known(name), new Uint8Array(data.buffer, data.byteOffset, data.byteLength));

  const rotary = rotaryInputs(config).map(({ names, rope, dim }) => ({
    names,
    half: dim / 2,
    fill: createRope({ rotaryDim: dim, rope }),
  }));
  const mostAngles = tokens * Math.max(0, ...rotary.map(({ half }) => half));
  const angles = { cos: new Float32Array(mostAngles), sin: new Float32Array(mostAngles) };
  const windowStarts = new Int32Array(tokens);
  const { encoder, headBias, positionTable } = config;
  const { rows: headRows, each } = labelPlaces(size.slots);
  if (headBias)
    put(
      "ones",
      Float32Array.from({ length: tokens * headRows }, (_, row) => (row % headRows === 0 ? 1 : size.slots!.scale)),
    );
  const { options } = config.textHead ?? {};
  if (options && types.options) put("options", Int32Array.from(options));
  const scales = new Float32Array(elements(types.scale!.shape));
  const readFloats = (name: BatchInput, count: number) => {
    const { buffer, byteOffset } = executor.read(known(name), 4 * count);
    return new Float32Array(buffer, byteOffset, count);
  };
  const rng = new Int32Array(2);
  return {
    addresses,
    bytes: batchBytes(config, size),
    load({ ids, labels, weights = null, starts, positions, types: texts, rows: ends, means }, scale) {
      if (weights && !weighted) throw new Error("a batch with weights, but the programs take none");
      put("ids", ids);
      if (config.layerInputs) put("tableIds", ids);
      rows?.take(ids);
      put("labels", labels);
      put("starts", starts);
      const count = positions.length;
      const reach = config.slidingWindow === null ? count : config.slidingWindow - 1;
      starts.forEach((start, token) => (windowStarts[token] = Math.max(start, token - reach)));
      put("windowStarts", windowStarts.subarray(0, count));
      if (positionTable)
        put(
          "positions",
          positions.map((position) => positionTable.first + position),
        );
      if (encoder) {
        const ends = endsOf(starts);
        put("ends", ends);
        put(
          "windowEnds",
          ends.map((end, token) => Math.min(end, token + reach + 1)),
        );
        put("types", texts && encoder.typeRows > 1 ? texts : new Int32Array(count));
      }
      for (const { names, half, fill } of rotary) {
        fill(positions, angles);
        put(names[0], angles.cos.subarray(0, count * half));
        put(names[1], angles.sin.subarray(0, count * half));
      }
      if (ends) {
        if (ends.length > textRows.length) throw new Error(`${ends.length} texts, but there is room for ${textRows.length}`);
        textRows.fill(0).set(ends);
        put("rows", textRows);
      }
      if (means) put("means", meansOf(means, size.texts!, count));
      if (weights) weights.forEach((weight, t) => (scales[t] = scale * weight));
      else scales.fill(scale);
      put("scale", weighted ? scales.subarray(0, count) : scales);
    },
    setRng(seed, draw) {
      rng[0] = seed;
      rng[1] = draw;
      put("rng", rng);
    },
    setRows(rows) {
      put("rows", rows);
    },
    tokenLosses: (count) => readFloats("tokenLosses", count * headRows * each),
    textLogits: (count) => readFloats("textLogits", count * config.textHead!.outputs),
    setScales(values, factor) {
      // What there is more room for has no part in the loss.
      scales.fill(0);
      for (let i = 0; i < values.length; i++) scales[i] = factor * values[i]!;
      put("scale", scales);
    },
  };
}
