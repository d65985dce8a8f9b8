import { UserError } from "../errors.ts";
import { byteLength } from "../graph/types.ts";
import { contextLimit, type ModelConfig } from "../hf/config.ts";
import type { Adapter } from "../hf/peft.ts";
import { createRope, shortLimit } from "../hf/rope.ts";
import type { TensorSource } from "../hf/safetensors.ts";
import { buildDecoder, CACHES, cacheType } from "../models/decode.ts";
import { rotaryInputs } from "../models/parts.ts";
import { MAX_CACHE_TOKENS } from "../ops/cached-attention.ts";
import type { StepMemory } from "../runtime/bind.ts";
import { createPrograms } from "../runtime/chain.ts";
import type { Address, Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent, type ForwardRunner } from "../runtime/forward.ts";
import { readTensor, reserveResident } from "../runtime/resident.ts";
import { loadWeights, storedWeightType } from "../train/weights.ts";
import { adapterTuning, writeAdapterWeights } from "./adapter.ts";

export interface DecoderOptions {
  readonly config: ModelConfig;
  readonly source: TensorSource;
  /** Applied beside the weights, which stay as they are. */
  readonly adapter?: Adapter | null;
  /** The longest text, in tokens, prompt included (default: the model's context, at most 4096). */
  readonly maxTokens?: number;
}

/** A model with a cache of keys and values: a text's tokens go in once, each gives the logits of the next. */
export interface Decoder {
  readonly maxTokens: number;
  /** The tokens in the cache. */
  readonly ids: readonly number[];
  /**
   * Makes `ids` the text so far and returns the logits [vocabulary] behind its last token. What the cache already holds
   * of its beginning is not computed again.
   * @throws {UserError} an empty text, or one that is longer than `maxTokens`
   */
  feed(ids: readonly number[]): Float32Array;
}

/** New tokens that are computed at once. A rest is padded to the least size that holds it, or taken in singles. */
const CHUNKS = [128, 16, 1] as const;
/** A rest of fewer tokens is cheaper in singles. */
const PADDED_FROM = 3;
const DEFAULT_TOKENS = 4096;

/** Reserves and loads a model for generation. @throws {UserError} weights that are missing or do not fit */
export function createDecoder(executor: Executor, options: DecoderOptions): Decoder {
  const { config, source, adapter = null } = options;
  const limit = contextLimit(config);
  const maxTokens = Math.min(options.maxTokens ?? Math.min(limit, DEFAULT_TOKENS), MAX_CACHE_TOKENS - CHUNKS[0]);
  if (maxTokens > limit) throw new UserError(`${maxTokens} tokens are more than the model's context of ${limit}`);
  // Padding of the last chunk is written behind the text.
  const size = maxTokens + CHUNKS[0];
  const tuning = adapterTuning(adapter, config);
  const chains = new Map(
    CHUNKS.map((tokens) => [tokens, buildDecoder(config, { tokens, tuning, weightType: storedWeightType(source) }, size)]),
  );
  const programs = createPrograms(executor);
  const segments = chains.get(CHUNKS[0])!;
  const resident = reserveResident(executor, segments, { optimizer: false, decays: () => false });
  loadWeights(executor, resident, source);
  if (adapter) writeAdapterWeights(executor, resident, adapter, tuning);

  const batch = createInputs(executor, config);
  const memory: StepMemory = {
    resident,
    batch: batch.addresses,
    segmentIndex: segments.map(() => batch.addresses.get("segment")!),
    lossGradient: 0,
    loss: 0,
    correct: 0,
    cache: segments.map((segment) => {
      const isBlock = segment.model.forward.inputs.some(({ role }) => role === "cache");
      return new Map(isBlock ? CACHES.map((name) => [name, reserveZeros(executor, byteLength(cacheType(config, size)))]) : []);
    }),
  };
  const arena = executor.reserve(Math.max(...[...chains.values()].map((chain) => forwardExtent(chain, programs))));
  const logits = executor.reserve(4 * config.vocabSize);
  const runners = new Map<string, ForwardRunner>();
  /** Without `last`, the logits are not computed. */
  const runner = (tokens: (typeof CHUNKS)[number], last: boolean): ForwardRunner => {
    const key = `${tokens} ${last}`;
    let made = runners.get(key);
    if (!made) {
      const chain = chains.get(tokens)!;
      made = createForward(executor, programs, last ? chain : chain.slice(0, -1), arena, memory, logits);
      runners.set(key, made);
    }
    return made;
  };

  const limitOfShort = shortLimit(config);
  let held: number[] = [];
  return {
    maxTokens,
    get ids() {
      return held;
    },
    feed(ids) {
      if (ids.length === 0) throw new UserError("there is nothing to continue: the prompt has no tokens");
      if (ids.length > maxTokens)
        throw new UserError(`the text has ${ids.length} tokens, more than the ${maxTokens} that there is room for`);
      let at = 0;
      // Keys of a text that grows longer than the limit were rotated by other frequencies.
      if (ids.length > limitOfShort !== held.length > limitOfShort) held = [];
      // The last token is always computed: its logits are wanted.
      while (at < held.length && at < ids.length - 1 && held[at] === ids[at]) at++;
      held = held.slice(0, at);
      while (at < ids.length) {
        const left = ids.length - at;
        const tokens = CHUNKS.find((chunk) => chunk <= left && (chunk > 1 || left < PADDED_FROM)) ?? CHUNKS[1];
        const chunk = ids.slice(at, at + tokens);
        batch.load(chunk, at, tokens, ids.length);
        at += chunk.length;
        runner(tokens, at === ids.length).run();
        held.push(...chunk);
      }
      return readTensor(executor, logits, { dtype: "f32", shape: [config.vocabSize] });
    },
  };
}

function reserveZeros(executor: Executor, bytes: number): Address {
  const address = executor.reserve(bytes);
  executor.zero(address, bytes);
  return address;
}

interface Inputs {
  readonly addresses: ReadonlyMap<string, Address>;
  /** `ids` at positions from `position` on of a text of `length` tokens, padded to `tokens`. */
  load(ids: readonly number[], position: number, tokens: number, length: number): void;
}

function createInputs(executor: Executor, config: ModelConfig): Inputs {
  const most = CHUNKS[0];
  const half = config.rotaryDim / 2;
  const rotary = rotaryInputs(config).map(({ names, rope }) => ({ names, fill: createRope({ ...config, rope }) }));
  const words: Record<string, number> = {
    ids: most,
    starts: most,
    windowStarts: most,
    ...Object.fromEntries(rotary.flatMap(({ names }) => names.map((name) => [name, most * half]))),
    position: 1,
    rows: 1,
    rng: 2,
    segment: 1,
  };
  const addresses = new Map(Object.entries(words).map(([name, count]) => [name, reserveZeros(executor, 4 * count)]));
  const put = (name: string, data: Int32Array | Float32Array) =>
    executor.write(addresses.get(name)!, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
  const reach = config.slidingWindow === null ? Infinity : config.slidingWindow - 1;
  return {
    addresses,
    load(ids, position, tokens, length) {
      const padded = new Int32Array(tokens);
      padded.set(ids);
      put("ids", padded);
      const positions = Int32Array.from({ length: tokens }, (_, i) => position + i);
      put(
        "windowStarts",
        positions.map((at) => Math.max(0, at - reach)),
      );
      for (const { names, fill } of rotary) {
        const { cos, sin } = fill(positions, undefined, length);
        put(names[0], cos);
        put(names[1], sin);
      }
      put("position", Int32Array.of(position));
      put("rows", Int32Array.of(ids.length - 1));
    },
  };
}
