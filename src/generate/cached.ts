import { UserError } from "../errors.ts";
import { inPrecision } from "../autodiff/precision.ts";
import type { Segment } from "../graph/segment.ts";
import { byteLength, type FloatType } from "../graph/types.ts";
import type { ModelConfig } from "../hf/config.ts";
import { createRope, shortLimit } from "../hf/rope.ts";
import { buildDecoder, CACHES, cacheType } from "../models/decode.ts";
import { rotaryInputs, type SegmentOptions } from "../models/parts.ts";
import { MAX_CACHE_TOKENS } from "../ops/cached-attention.ts";
import type { StepMemory } from "../runtime/bind.ts";
import type { Programs } from "../runtime/chain.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent, type ForwardRunner } from "../runtime/forward.ts";
import { readTensor, type Resident } from "../runtime/resident.ts";

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
  /**
   * As `feed`, with a pause between two chunks of new tokens, in which the caller may leave for good. Yields how many of `ids`
   * the cache holds, for the first time before anything is computed.
   */
  feedInPieces(ids: readonly number[]): Generator<number, Float32Array, void>;
}

/** New tokens that are computed at once. A rest is padded to the least size that holds it, or taken in singles. */
const CHUNKS = [128, 16, 1] as const;
/** A rest of fewer tokens is cheaper in singles. */
const PADDED_FROM = 3;

/** The longest text that any decoder has room for. */
export const MOST_TOKENS = MAX_CACHE_TOKENS - CHUNKS[0];

/** The programs of a decoder and what they need, before any memory is taken. */
export interface DecoderPlan {
  readonly config: ModelConfig;
  readonly maxTokens: number;
  readonly chains: ReadonlyMap<number, readonly Segment[]>;
  /** Bytes besides the weights: inputs, caches, logits, boundaries and workspace. */
  readonly bytes: number;
}

/** @param programs compiles what is planned, and is given to `startDecoder` again */
export function planDecoder(
  programs: Programs,
  config: ModelConfig,
  options: Omit<SegmentOptions, "tokens"> & { readonly compute: FloatType },
  maxTokens: number,
): DecoderPlan {
  const size = cacheSize(maxTokens);
  const chainOf = (tokens: number) => inPrecision(buildDecoder(config, { ...options, tokens }, size), options.compute);
  const chains = new Map(CHUNKS.map((tokens) => [tokens as number, chainOf(tokens)]));
  const words = Object.values(inputWords(config)).reduce((sum, count) => sum + align(4 * count), 0);
  const caches = config.layers * CACHES.length * align(byteLength(cacheType(config, size)));
  const extent = Math.max(...[...chains.values()].map((chain) => forwardExtent(chain, programs)));
  return { config, maxTokens, chains, bytes: words + caches + align(4 * config.vocabSize) + align(extent) };
}

/** Padding of the last chunk is written behind the text. */
function cacheSize(maxTokens: number): number {
  return maxTokens + CHUNKS[0];
}

/** Starts with an empty cache in the `plan.bytes` bytes at `base`, which are the decoder's as long as it is used. */
export function startDecoder(
  executor: Executor,
  programs: Programs,
  plan: DecoderPlan,
  resident: Pick<Resident, "param" | "gradient">,
  base: Address,
): Decoder {
  const { config, maxTokens, chains } = plan;
  executor.zero(base, plan.bytes);
  let end = base;
  const place = (bytes: number): Address => {
    const address = end;
    end += align(bytes);
    return address;
  };
  const batch = createInputs(executor, config, place);
  const segments = chains.get(CHUNKS[0])!;
  const caches = byteLength(cacheType(config, cacheSize(maxTokens)));
  const memory: StepMemory = {
    resident,
    batch: batch.addresses,
    segmentIndex: segments.map(() => batch.addresses.get("segment")!),
    lossGradient: 0,
    loss: 0,
    correct: 0,
    cache: segments.map((segment) => {
      const isBlock = segment.model.forward.inputs.some(({ role }) => role === "cache");
      return new Map(isBlock ? CACHES.map((name) => [name, place(caches)]) : []);
    }),
  };
  const logits = place(4 * config.vocabSize);
  const arena = end;
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
  const decoder: Decoder = {
    maxTokens,
    get ids() {
      return held;
    },
    feed(ids) {
      const pieces = decoder.feedInPieces(ids);
      let piece = pieces.next();
      while (!piece.done) piece = pieces.next();
      return piece.value;
    },
    *feedInPieces(ids) {
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
        yield at;
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
  return decoder;
}

interface Inputs {
  readonly addresses: ReadonlyMap<string, Address>;
  /** `ids` at positions from `position` on of a text of `length` tokens, padded to `tokens`. */
  load(ids: readonly number[], position: number, tokens: number, length: number): void;
}

/** 32-bit words of each input. */
function inputWords(config: ModelConfig): Record<string, number> {
  const most = CHUNKS[0];
  const angles = rotaryInputs(config).flatMap(({ names }) => names.map((name) => [name, (most * config.rotaryDim) / 2]));
  return { ids: most, starts: most, windowStarts: most, ...Object.fromEntries(angles), position: 1, rows: 1, rng: 2, segment: 1 };
}

function createInputs(executor: Executor, config: ModelConfig, place: (bytes: number) => Address): Inputs {
  const rotary = rotaryInputs(config).map(({ names, rope }) => ({ names, fill: createRope({ ...config, rope }) }));
  const addresses = new Map(Object.entries(inputWords(config)).map(([name, count]) => [name, place(4 * count)]));
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
