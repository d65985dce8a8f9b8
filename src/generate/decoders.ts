import { UserError } from "../base/errors.ts";
import { inPrecision } from "../autodiff/precision.ts";
import type { Segment } from "../graph/segment.ts";
import { byteLength, typeOf } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import type { ModelConfig } from "../models/config.ts";
import type { StreamedWeights } from "../load/streamed-weights.ts";
import { shortLimit } from "../models/rotary-tables.ts";
import { buildDecoder, cacheOwners, cachesOf } from "../models/chain/decode.ts";
import type { SegmentOptions } from "../models/parts.ts";
import { MAX_CACHE_TOKENS } from "../ops/cached-attention.ts";
import type { StepMemory } from "../runtime/bind.ts";
import { carriedBytes, carriedTotal, placeCarried } from "../runtime/carried.ts";
import type { Programs } from "../runtime/chain.ts";
import { type Address, align, type Executor } from "../runtime/executor.ts";
import { createForward, forwardExtent, type ForwardRunner } from "../runtime/forward.ts";
import { readTensor, type Resident } from "../runtime/resident.ts";
import { createInputs, type DecoderInputs, inputBytes } from "./inputs.ts";

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
  /** Forgets what feeding `ids` to a new decoder would compute in other pieces, so that its logits come out with the same bits. */
  startAnew(ids: readonly number[]): void;
}

/** Decoders of the same weights, each with a cache of its own, whose next tokens are computed together: the weights are read once. */
export interface Decoders {
  readonly each: readonly Decoder[];
  /**
   * `feed` of some of the decoders, by their number. Those that have one token to compute are computed together if they are most of all there
   * are. With up to eight decoders on the CPU kernels that changes no bit.
   */
  feed(texts: ReadonlyMap<number, readonly number[]>): Map<number, Float32Array>;
  /** Tells whether a text's cache has all of `ids` but the last token, so that it can be computed with those of other texts. */
  lacksOne(text: number, ids: readonly number[]): boolean;
  /** Makes `ids`, which lacked one token, the text: the token has been computed with those of other decoders, in the same caches. */
  take(text: number, ids: readonly number[]): void;
}

/** New tokens that are computed at once. A rest is padded to the least size that holds it, or taken in singles. */
const CHUNKS = [128, 16, 1] as const;
/** The most tokens that a decoder takes in at once. */
export const DECODER_TOKENS = CHUNKS[0];
/** A rest of fewer tokens is cheaper in singles. */
const PADDED_FROM = 3;

/** The longest text that any decoder has room for. */
export const MOST_TOKENS = MAX_CACHE_TOKENS - CHUNKS[0];

/** The programs of decoders and what they need, before any memory is taken. */
export interface DecoderPlan {
  readonly config: ModelConfig;
  readonly maxTokens: number;
  /** How many decoders. */
  readonly texts: number;
  /** For each number of tokens of one text. */
  readonly chains: ReadonlyMap<number, readonly Segment[]>;
  /** For one token of each text; null if there is one alone. */
  readonly together: readonly Segment[] | null;
  /** Bytes besides the weights: inputs, caches, logits, boundaries and workspace. */
  readonly bytes: number;
}

/** @param programs compiles what is planned, and is given to `startDecoders` again */
export function planDecoder(
  programs: Programs,
  config: ModelConfig,
  options: Omit<SegmentOptions, "tokens"> & { readonly compute: FloatType },
  maxTokens: number,
  texts = 1,
): DecoderPlan {
  const size = cacheSize(maxTokens);
  const chainOf = (tokens: number, count = 1) =>
    inPrecision(buildDecoder(config, { ...options, tokens }, { size, texts: count }), options.compute);
  const chains = new Map(CHUNKS.map((tokens) => [tokens as number, chainOf(tokens)]));
  const together = texts > 1 ? chainOf(texts, texts) : null;
  const all = [...chains.values(), ...(together ? [together] : [])];
  const extent = Math.max(...all.map((chain) => forwardExtent(chain, programs)));
  const carried = carriedTotal(carriedBytes(all));
  const own = inputBytes(config, CHUNKS[0], texts) + carried + align(4 * config.vocabSize * texts) + align(extent);
  return { config, maxTokens, texts, chains, together, bytes: own + texts * cacheBytes(config, maxTokens) };
}

/** Bytes of what is kept of one text, keys and values for example. */
export function cacheBytes(config: ModelConfig, maxTokens: number): number {
  const owners = new Set(cacheOwners(config));
  const types = cachesOf(config, cacheSize(maxTokens)).flatMap((caches, layer) =>
    owners.has(layer) ? [...caches.values()] : [],
  );
  return types.reduce((sum, type) => sum + align(byteLength(type)), 0);
}

/** Padding of the last chunk is written behind the text. A multiple, so that each text's part is as aligned as the whole. */
export function cacheSize(maxTokens: number): number {
  return Math.ceil((maxTokens + CHUNKS[0]) / 32) * 32;
}

/** Decoders of the same model, with other adapters perhaps, that have the same bytes. */
export interface OtherDecoders {
  /** They have begun already: what is in the bytes stays as it is. */
  readonly areThere: boolean;
  /** Where the text in a cache ends, whose ever it is: what is behind that may be overwritten. */
  endOf(text: number): number;
}

/** Where the decoders of a model have what they share. */
export interface DecoderPlaces {
  readonly inputs: DecoderInputs;
  readonly memory: StepMemory;
  /** By segment: where the caches of all texts begin, and how many bytes each text has. */
  readonly caches: readonly (readonly { readonly name: string; readonly bytes: number; readonly address: Address }[])[];
  readonly logits: Address;
  /** Boundaries and workspace of programs. */
  readonly arena: Address;
}

/** Finds places in the bytes at `base`: the same for all decoders of a model, whatever adapters they have. */
export function placeDecoders(
  executor: Executor,
  { config, texts, chains, together }: DecoderPlan,
  resident: Pick<Resident, "param" | "gradient">,
  base: Address,
  streamed: StreamedWeights | null = null,
): DecoderPlaces {
  let end = base;
  const place = (bytes: number): Address => {
    const address = end;
    end += align(bytes);
    return address;
  };
  const inputs = createInputs(executor, config, { tokens: CHUNKS[0], texts }, place, streamed?.rows);
  const segments = chains.get(CHUNKS[0])!;
  // Behind the embedding, which keeps nothing.
  const owners = [0, ...cacheOwners(config).map((layer) => layer + 1), config.layers + 1];
  const own = segments.map(({ model: { forward } }, index) =>
    (owners[index] === index ? forward.inputs : [])
      .filter(({ role }) => role === "cache")
      .map(({ name }) => {
        const bytes = byteLength(typeOf(forward, name));
        return { name, bytes, address: place(texts * bytes) };
      }),
  );
  const caches = segments.map((_, index) => own[owners[index] ?? index]!);
  const carried = placeCarried(carriedBytes([...chains.values(), ...(together ? [together] : [])]), place);
  const memory: StepMemory = {
    resident,
    window: streamed?.window ?? null,
    batch: inputs.addresses,
    carried,
    segmentIndex: segments.map(() => inputs.addresses.get("segment")!),
    lossGradient: 0,
    loss: 0,
    correct: 0,
  };
  const logits = place(4 * config.vocabSize * texts);
  return { inputs, memory, caches, logits, arena: end };
}

/** The caches from a text's on, as programs bind them. */
export function cachesFrom({ caches }: DecoderPlaces, text: number): NonNullable<StepMemory["cache"]> {
  return caches.map((each) => new Map(each.map(({ name, bytes, address }) => [name, address + text * bytes])));
}

/**
 * Computes one token of each text of some; all others stay as they are. Returns the logits behind each.
 * @param endOf where the text of a cache ends: what is behind that may be overwritten
 */
export function runTogether(
  executor: Executor,
  { config, texts }: Pick<DecoderPlan, "config" | "texts">,
  { inputs, logits }: DecoderPlaces,
  runner: ForwardRunner,
  wanted: ReadonlyMap<number, readonly number[]>,
  endOf: (text: number) => number,
): Map<number, Float32Array> {
  inputs.loadTogether(
    Array.from({ length: texts }, (_, text) => {
      const ids = wanted.get(text);
      if (ids) return { id: ids.at(-1)!, position: ids.length - 1, start: 0 };
      return { id: 0, position: endOf(text), start: endOf(text) };
    }),
  );
  runner.run();
  const row = (text: number) =>
    readTensor(executor, logits + 4 * config.vocabSize * text, { dtype: "f32", shape: [config.vocabSize] });
  return new Map([...wanted.keys()].map((text) => [text, row(text)]));
}

/** The one decoder of a plan of one text: see `startDecoders`. */
export function startDecoder(...args: Parameters<typeof startDecoders>): Decoder {
  return startDecoders(...args).each[0]!;
}

/**
 * Starts with empty caches in the `plan.bytes` bytes at `base`, which are the decoders' as long as they are used. In one piece: its
 * functions share what is known of each text's cache, and no other code may change that.
 */
export function startDecoders(
  executor: Executor,
  programs: Programs,
  plan: DecoderPlan,
  resident: Pick<Resident, "param" | "gradient">,
  base: Address,
  { others, streamed = null }: { readonly others?: OtherDecoders; readonly streamed?: StreamedWeights | null } = {},
): Decoders {
  const { config, maxTokens, texts, chains, together } = plan;
  if (others?.areThere !== true) executor.zero(base, plan.bytes);
  const places = placeDecoders(executor, plan, resident, base, streamed);
  const { inputs, memory, logits, arena } = places;
  const runners = new Map<string, ForwardRunner>();
  const runner = (key: string, chain: readonly Segment[], text: number): ForwardRunner => {
    let made = runners.get(key);
    if (!made)
      runners.set(
        key,
        (made = createForward(executor, programs, chain, arena, { ...memory, cache: cachesFrom(places, text) }, logits)),
      );
    return made;
  };
  /** Without `last`, the logits are not computed. */
  const runChunk = (text: number, tokens: (typeof CHUNKS)[number], last: boolean) => {
    const chain = chains.get(tokens)!;
    runner(`${text} ${tokens} ${last}`, last ? chain : chain.slice(0, -1), text).run();
  };

  const limitOfShort = shortLimit(config);
  const areAlike = (length: number, other: number) => length > limitOfShort === other > limitOfShort;
  const held: number[][] = Array.from({ length: texts }, () => []);
  /** Tokens at the beginning of a text that came in whole chunks of the largest size. */
  const whole = held.map(() => 0);
  /** How much of a text can stay where `count` tokens are wanted: a state is that behind the last token, or none. */
  const reachable = (known: readonly number[], count: number) => (config.delta === null || count === known.length ? count : 0);
  const keep = (text: number, wanted: number) => {
    const count = reachable(held[text]!, wanted);
    held[text] = held[text]!.slice(0, count);
    whole[text] = Math.min(whole[text]!, count - (count % CHUNKS[0]));
  };
  /** How many tokens a text's cache has of `ids` without the last one, which is always computed: its logits are wanted. */
  const shared = (text: number, ids: readonly number[]): number => {
    const known = held[text]!;
    // Keys of a text that grows longer than the limit were rotated by other frequencies.
    if (!areAlike(ids.length, known.length)) return 0;
    let at = 0;
    while (at < known.length && at < ids.length - 1 && known[at] === ids[at]) at++;
    return reachable(known, at);
  };
  const decoderOf = (text: number): Decoder => {
    const decoder: Decoder = {
      maxTokens,
      get ids() {
        return held[text]!;
      },
      startAnew(ids) {
        keep(text, shared(text, ids));
        keep(text, whole[text]!);
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
        let at = shared(text, ids);
        keep(text, at);
        while (at < ids.length) {
          yield at;
          const left = ids.length - at;
          const tokens = CHUNKS.find((chunk) => chunk <= left && (chunk > 1 || left < PADDED_FROM)) ?? CHUNKS[1];
          const chunk = ids.slice(at, at + tokens);
          inputs.load(chunk, at, tokens, ids.length);
          if (at === whole[text] && tokens === CHUNKS[0]) whole[text] = at + tokens;
          at += chunk.length;
          runChunk(text, tokens, at === ids.length);
          held[text]!.push(...chunk);
        }
        return readTensor(executor, logits, { dtype: "f32", shape: [config.vocabSize] });
      },
    };
    return decoder;
  };
  const each = Array.from({ length: texts }, (_, text) => decoderOf(text));

  const lacksOne = (text: number, ids: readonly number[]): boolean =>
    ids.length > 0 && ids.length <= maxTokens && shared(text, ids) === ids.length - 1;
  const take = (text: number, ids: readonly number[]): void => {
    keep(text, ids.length - 1);
    held[text]!.push(ids.at(-1)!);
  };
  const endOf = others?.endOf ?? ((text) => held[text]!.length);
  return {
    each,
    lacksOne,
    take,
    feed(wanted) {
      const going = new Map([...wanted].filter(([text, ids]) => lacksOne(text, ids)));
      const isWorth = together !== null && going.size > texts / 2;
      const results = isWorth
        ? runTogether(executor, plan, places, runner("together", together, 0), going, endOf)
        : new Map<number, Float32Array>();
      for (const text of results.keys()) take(text, going.get(text)!);
      for (const [text, ids] of wanted) if (!results.has(text)) results.set(text, each[text]!.feed(ids));
      return results;
    },
  };
}
