import type { DType } from "../base/dtype.ts";
import type { BodyBuilder } from "./types.ts";

/**
 * Philox 4x32-10 in standard operators: see `PhiloxDropout`. Of `elements` elements, which have a random word of at least
 * `threshold` -> bool [elements].
 */
export function philoxBody(body: BodyBuilder, stream: Stream, threshold: number): string {
  const blocks = Math.ceil(stream.elements / 4);
  const size = Math.max(CHUNK, Math.ceil(blocks / MOST_CHUNKS));
  const isNarrow = body.integers === "narrow";
  // The upper 24 bits of a word are what f32 holds.
  const [valuesOf, least] =
    body.integers === "bits"
      ? ([wordsByBits, body.scalar(threshold, "i64")] as const)
      : ([upperBitsByTable, body.scalar(threshold / 256, "f32")] as const);
  const compare = (values: string) => body.op("GreaterOrEqual", [values, least]);
  const parts = Array.from({ length: Math.ceil(blocks / size) }, (_, i) => {
    const values = valuesOf(body, { ...stream, from: i * size, to: Math.min((i + 1) * size, blocks) });
    // What has no integers of 64 bits moves no truth values either.
    return isNarrow ? values : compare(values);
  });
  const all = parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
  const some = stream.elements === 4 * blocks ? all : body.op("Slice", [all, body.ints([0]), body.ints([stream.elements])]);
  return isNarrow ? compare(some) : some;
}

interface Stream {
  /** i32 [2]: seed and draw. */
  readonly rng: string;
  /** i32 [1] */
  readonly segment: string;
  readonly site: number;
  readonly elements: number;
}

/** Blocks of four words, from..to-1. */
interface Chunk extends Stream {
  readonly from: number;
  readonly to: number;
}

/** Blocks at a time: what is in between has some 200 bytes per block. A body has at most `MOST_CHUNKS`. */
const CHUNK = 2 ** 18;
const MOST_CHUNKS = 16;

const ROUNDS = 10;
/** Multipliers of the counter's words 0 and 2. */
const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57] as const;
/** Steps by which the key's words grow from round to round. */
const WEYL = [0x9e3779b9, 0xbb67ae85] as const;

/** With bit operations: words are u64 in 0..2^32-1 -> i64 [4 blocks]: the words of each block. */
function wordsByBits(body: BodyBuilder, { rng, segment, site, from, to }: Chunk): string {
  const u64 = (value: number) => body.constant({ dtype: "u64", shape: [1], data: [value] });
  const xor = (a: string, b: string) => body.op("BitwiseXor", [a, b]);
  const upper = (product: string) => body.op("BitShift", [product, u64(32)], { direction: "RIGHT" });
  const lower = (product: string) => body.op("BitwiseAnd", [product, u64(0xffffffff)]);

  const wide = body.op("Cast", [roundKeys(body, rng, () => [0, 1])], { to: "u64" });
  const keys = body.ops("Split", [wide, body.ints(Array<number>(2 * ROUNDS).fill(1))], { axis: 0 }, 2 * ROUNDS);
  let c0 = body.op("Cast", [counterOf(body, from, to)], { to: "u64" });
  let c1 = u64(site);
  let c2 = body.op("Cast", [body.op("Cast", [segment], { to: "u32" })], { to: "u64" });
  let c3 = u64(0);
  for (let round = 0; round < ROUNDS; round++) {
    const product0 = body.op("Mul", [c0, u64(MULTIPLIERS[0])]);
    const product1 = body.op("Mul", [c2, u64(MULTIPLIERS[1])]);
    // Until they depend on the block, words are single numbers.
    c0 = xor(upper(product1), xor(c1, keys[2 * round]!));
    c2 = xor(upper(product0), xor(c3, keys[2 * round + 1]!));
    c1 = lower(product1);
    c3 = lower(product0);
  }
  const words = body.op("Cast", [body.op("Concat", [c0, c1, c2, c3], { axis: 0 })], { to: "i64" });
  const byWord = body.op("Reshape", [words, body.ints([4, to - from])]);
  return body.op("Reshape", [body.op("Transpose", [byWord], { perm: [1, 0] }), body.ints([-1])]);
}

const counterOf = (body: BodyBuilder, from: number, to: number, dtype: DType = "i64"): string =>
  body.op("Range", [body.scalar(from, dtype), body.scalar(to, dtype), body.scalar(1, dtype)]);

/**
 * Without them: arithmetic of unsigned integers wraps around, a division shifts, a cast to a smaller type (or what is left of a
 * division) cuts off the upper bits, bytes a and b of an exclusive or select an entry of a table, and a product in f32, which is exact below 2^24,
 * puts bytes together.
 * -> f32 [4 blocks], the upper 24 bits of the words of each block
 *
 * Both halves of a round are one computation on two *lanes* [2, blocks, 1, ...]. A lane's word goes to the other word of the
 * counter in each round, so what is there in which lane changes: lane 0 begins with word 0, lane 1 with word 2, and after
 * ten rounds that is so again. `odd` is what the product's upper half is combined with: words 3 and 1. Both are kept as i32
 * [2, blocks, 1, 4], the lowest byte first.
 */
function upperBitsByTable(body: BodyBuilder, { rng, segment, site, from, to }: Chunk): string {
  const blocks = to - from;
  const isNarrow = body.integers === "narrow";
  const [wide, count]: readonly [DType, DType] = isNarrow ? ["u32", "i32"] : ["u64", "i64"];
  const table = xorTable(body);
  const shiftedTable = body.op("Mul", [table, body.scalar(256, "i32")]);
  const lookUp = (entries: string, high: string, low: string) => body.op("Gather", [entries, body.op("Add", [high, low])]);
  /** Numbers [2, blocks, 1, n] in f32 of i32 [2, blocks, 1, 4]: sums of bytes times weights [4, n] below 2^24. */
  const together = (bytes: string, weights: readonly (readonly number[])[]) =>
    body.op("MatMul", [
      body.op("Cast", [bytes], { to: "f32" }),
      body.constant({ dtype: "f32", shape: [4, weights[0]!.length], data: weights.flat() }),
    ]);

  const order = (round: number): readonly (0 | 1)[] => (round % 2 === 0 ? [1, 0] : [0, 1]);
  const keyWords = body.op("Reshape", [roundKeys(body, rng, order), body.ints([2 * ROUNDS, 1, 1, 1])]);
  const keys = body.ops("Split", [bytesOf(body, keyWords, 1), body.ints(Array<number>(ROUNDS).fill(2))], { axis: 0 }, ROUNDS);
  const segments = body.op("Expand", [body.op("Cast", [segment], { to: count }), body.ints([blocks])]);
  const start = body.op("Concat", [counterOf(body, from, to, count), segments], { axis: 0 });
  // Cut to 32 bits, which is where a negative number's bits are.
  const word = body.op("Cast", [body.op("Reshape", [start, body.ints([2, blocks, 1, 1])])], { to: "u32" });
  let halves = halvesOf(body, isNarrow ? word : body.op("Cast", [word], { to: wide }));
  let odd = body.constant({ dtype: "i32", shape: [2, 1, 1, 4], data: [0, 0, 0, 0, ...bytesOfNumber(site)] });
  for (let round = 0; ; round++) {
    const factors = round % 2 === 0 ? MULTIPLIERS : MULTIPLIERS.toReversed();
    const isLast = round === ROUNDS - 1;
    // What a lane's upper half is combined with in the next round is of the other lane.
    const { lower, upper } = (isNarrow ? productOfHalves : wideProduct)(body, halves, factors, !isLast);
    const first = body.op("Mul", [upper, body.scalar(256, "i32")]);
    const even = lookUp(table, lookUp(shiftedTable, first, odd), keys[round]!);
    if (isLast) {
      // Words 0 and 2 are the lanes' own, 1 and 3 the lower halves of the last products.
      const last = together(body.op("Concat", [even, lower], { axis: 2 }), [[0], [1], [2 ** 8], [2 ** 16]]);
      return body.op("Reshape", [body.op("Transpose", [last], { perm: [1, 0, 2, 3] }), body.ints([-1])]);
    }
    const pair = together(even, [
      [1, 0],
      [2 ** 8, 0],
      [0, 1],
      [0, 2 ** 8],
    ]);
    const [low, high] = body.ops("Split", [body.op("Cast", [pair], { to: wide }), body.ints([1, 1])], { axis: 3 }, 2);
    halves = { low: low!, high: high! };
    odd = lower;
  }
}

/** Words, [2, blocks, 1, 1]. */
interface Halves {
  readonly low: string;
  readonly high: string;
}

/** Bytes, i32 [2, blocks, 1, 4]. */
interface Product {
  /** The one of the other lane, if that was asked for. */
  readonly lower: string;
  readonly upper: string;
}

/** @param bytes i32 [2, blocks, 2, 4] */
function apart(body: BodyBuilder, bytes: string): Product {
  const [lower, upper] = body.ops("Split", [bytes, body.ints([1, 1])], { axis: 2 }, 2);
  return { lower: lower!, upper: upper! };
}

const swapLanes = (body: BodyBuilder, pair: string): string => body.op("Gather", [pair, body.ints([1, 0])], { axis: 0 });

const HALF = 2 ** 16;

function halvesOf(body: BodyBuilder, words: string): Halves {
  const dtype = body.integers === "narrow" ? "u32" : "u64";
  const high = body.op("Div", [words, body.scalar(HALF, dtype)]);
  return { low: body.op("Sub", [words, body.op("Mul", [high, body.scalar(HALF, dtype)])]), high };
}

const bytesOfNumber = (word: number): number[] => [0, 8, 16, 24].map((shift) => (word >>> shift) & 255);

/** Bytes, i32 [..., parts, 4], the lowest first, of words u32, of which each row has `parts`, or of a number u64, in two parts. */
function bytesOf(body: BodyBuilder, words: string, parts: 1 | 2): string {
  const isNarrow = body.integers === "narrow";
  const places = [1, 2 ** 8, 2 ** 16, 2 ** 24];
  const isPair = parts === 2 && !isNarrow;
  const divisors = isPair
    ? body.constant({ dtype: "u64", shape: [2, 4], data: [...places, ...places.map((place) => place * 2 ** 32)] })
    : body.constant({ dtype: "u32", shape: [4], data: places });
  const shifted = body.op("Div", [words, divisors]);
  const byte = isNarrow ? remainder(body, shifted, 2 ** 8) : body.op("Cast", [shifted], { to: "u8" });
  return body.op("Cast", [byte], { to: "i32" });
}

/** A factor for each lane. */
const each = (body: BodyBuilder, dtype: DType, factors: readonly number[]) =>
  body.constant({ dtype, shape: [2, 1, 1, 1], data: factors });

/** Multiplies words, u64, by a factor for each lane. */
function wideProduct(body: BodyBuilder, { low, high }: Halves, factors: readonly number[], isSwapped: boolean): Product {
  const ofLow = body.op("Mul", [low, each(body, "u64", factors)]);
  const shifted = factors.map((factor) => factor * HALF);
  const product = body.op("Add", [ofLow, body.op("Mul", [high, each(body, "u64", shifted)])]);
  const { lower, upper } = apart(body, bytesOf(body, product, 2));
  return { lower: isSwapped ? swapLanes(body, lower) : lower, upper };
}

/**
 * The same in 32 bits: with a word 2^16 h + l and a factor 2^16 f + g the product is 2^32 h f + 2^16 (l f + h g) + l g. With t = h g + l g / 2^16 and
 * u = l f + t mod 2^16 the upper half is h f + t / 2^16 + u / 2^16; neither t nor u reaches 2^32.
 */
function productOfHalves(body: BodyBuilder, { low, high }: Halves, factors: readonly number[], isSwapped: boolean): Product {
  const ofLanes = (values: readonly number[]) => each(body, "u32", values);
  const [f, g] = [ofLanes(factors.map((factor) => Math.floor(factor / HALF))), ofLanes(factors.map((factor) => factor % HALF))];
  const half = body.scalar(HALF, "u32");
  const upperOf = (word: string) => body.op("Div", [word, half]);
  const times = (one: string, other: string) => body.op("Mul", [one, other]);
  const add = (one: string, other: string) => body.op("Add", [one, other]);
  const t = add(times(high, g), upperOf(times(low, g)));
  const upperOfT = upperOf(t);
  const u = add(times(low, f), body.op("Sub", [t, times(upperOfT, half)]));
  const upper = add(add(times(high, f), upperOfT), upperOf(u));
  const shifted = factors.map((factor) => (factor % HALF) * HALF);
  const lower = add(times(low, ofLanes(factors)), times(high, ofLanes(shifted)));
  const other = isSwapped ? swapLanes(body, lower) : lower;
  return apart(body, bytesOf(body, body.op("Concat", [other, upper], { axis: 2 }), 2));
}

/** Returns what is left of u32 behind a division. */
function remainder(body: BodyBuilder, words: string, by: number): string {
  const whole = body.op("Mul", [body.op("Div", [words, body.scalar(by, "u32")]), body.scalar(by, "u32")]);
  return body.op("Sub", [words, whole]);
}

/** i32 [65536]: entry 256 a + b is a xor b, made of the 256 ones for half bytes. */
function xorTable(body: BodyBuilder): string {
  const data = Array.from({ length: 256 }, (_, i) => (i >> 4) ^ (i & 15));
  const part = (shape: readonly number[]) => body.constant({ dtype: "i32", shape, data });
  const upper = body.op("Mul", [part([16, 1, 16, 1]), body.scalar(16, "i32")]);
  return body.op("Reshape", [body.op("Add", [upper, part([1, 16, 1, 16])]), body.ints([-1])]);
}

/** Two words of the key for each round, in an order of their own: u32 [20]. */
function roundKeys(body: BodyBuilder, rng: string, orderOf: (round: number) => readonly (0 | 1)[]): string {
  const order = Array.from({ length: ROUNDS }, (_, round) => orderOf(round));
  const growth = order.flatMap((words, round) => words.map((word) => (round * WEYL[word]) % 2 ** 32));
  // In 32 bits the sum wraps around, which cutting it off does otherwise.
  const dtype = body.integers === "narrow" ? "u32" : "i64";
  const key = body.op("Gather", [body.op("Cast", [rng], { to: dtype }), body.ints(order.flat())]);
  const grown = body.op("Add", [key, body.constant({ dtype, shape: [2 * ROUNDS], data: growth })]);
  return body.op("Cast", [grown], { to: "u32" });
}
