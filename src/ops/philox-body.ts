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
  const wordsOf = body.integers === "bits" ? wordsByBits : wordsByTable;
  const least = body.constant({ dtype: isNarrow ? "u32" : "i64", shape: [], data: [threshold] });
  const parts = Array.from({ length: Math.ceil(blocks / size) }, (_, i) => {
    const chunk = { ...stream, from: i * size, to: Math.min((i + 1) * size, blocks) };
    const reached = body.op("GreaterOrEqual", [wordsOf(body, chunk), least]);
    // What has no integers of 64 bits moves no truth values either.
    const kept = isNarrow ? body.op("Cast", [reached], { to: "f32" }) : reached;
    const byWord = body.op("Reshape", [kept, body.ints([4, chunk.to - chunk.from])]);
    return body.op("Transpose", [byWord], { perm: [1, 0] });
  });
  const all = parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
  const some = body.op("Slice", [body.op("Reshape", [all, body.ints([-1])]), body.ints([0]), body.ints([stream.elements])]);
  return isNarrow ? body.op("Cast", [some], { to: "bool" }) : some;
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

/** With bit operations: words are u64 in 0..2^32-1 -> i64 [4 blocks]: all words 0, then all words 1, .... */
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
  return body.op("Cast", [body.op("Concat", [c0, c1, c2, c3], { axis: 0 })], { to: "i64" });
}

const counterOf = (body: BodyBuilder, from: number, to: number, dtype: DType = "i64"): string =>
  body.op("Range", [body.scalar(from, dtype), body.scalar(to, dtype), body.scalar(1, dtype)]);

/**
 * Without them: arithmetic of unsigned integers wraps around, a division shifts, a cast to a smaller type (or what is left of a
 * division) cuts off the upper bits, and bytes a and b of an exclusive or select an entry of a table.
 * -> [4, blocks], i64, or u32 where integers are narrow
 *
 * Both halves of a round are one computation on two *lanes* [2, blocks]. A lane's word goes to the other word of the
 * counter in each round, so what is there in which lane changes: lane 0 begins with word 0, lane 1 with word 2, and after
 * ten rounds that is so again. `odd` is what the product's upper half is combined with: words 3 and 1, by bytes.
 */
function wordsByTable(body: BodyBuilder, { rng, segment, site, from, to }: Chunk): string {
  const blocks = to - from;
  const isNarrow = body.integers === "narrow";
  const [wide, count]: readonly [DType, DType] = isNarrow ? ["u32", "i32"] : ["u64", "i64"];
  const lanes = body.ints([2, blocks]);
  const places = body.constant({ dtype: "u32", shape: [4], data: [1, 2 ** 8, 2 ** 16, 2 ** 24] });
  /** [...] u32 -> [..., 4] i32, the lowest byte first. */
  const bytesOf = (words: string, axis: number) => {
    const shifted = body.op("Div", [body.op("Unsqueeze", [words, body.ints([axis])]), places]);
    const byte = isNarrow ? remainder(body, shifted, 2 ** 8) : body.op("Cast", [shifted], { to: "u8" });
    return body.op("Cast", [byte], { to: "i32" });
  };
  const apart = (pair: string) => body.ops("Split", [pair, body.ints([1, 1])], { axis: 0 }, 2);
  /** [2, blocks, 4] -> [2, blocks], as factors of products */
  const wordOf = (bytes: string) => {
    const placed = body.op("Mul", [body.op("Cast", [bytes], { to: "u32" }), places]);
    const parts = body.ops("Split", [placed, body.ints([1, 1, 1, 1])], { axis: 2 }, 4);
    const word = parts.reduce((sum, part) => body.op("Add", [sum, part]));
    return body.op("Cast", [body.op("Reshape", [word, lanes])], { to: wide });
  };

  const table = xorTable(body);
  const shiftedTable = body.op("Mul", [table, body.scalar(256, "i32")]);
  const lookUp = (entries: string, high: string, low: string) => body.op("Gather", [entries, body.op("Add", [high, low])]);

  const keyBytes = bytesOf(
    roundKeys(body, rng, (round) => (round % 2 === 0 ? [1, 0] : [0, 1])),
    1,
  );
  const pairs = body.op("Reshape", [keyBytes, body.ints([2 * ROUNDS, 1, 4])]);
  const keys = body.ops("Split", [pairs, body.ints(Array<number>(ROUNDS).fill(2))], { axis: 0 }, ROUNDS);
  const segments = body.op("Expand", [body.op("Cast", [segment], { to: count }), body.ints([blocks])]);
  const start = body.op("Concat", [counterOf(body, from, to, count), segments], { axis: 0 });
  // Cut to 32 bits, which is where a negative number's bits are.
  const word = body.op("Cast", [body.op("Cast", [body.op("Reshape", [start, lanes])], { to: "u32" })], { to: wide });
  let even = word;
  let odd = bytesOf(body.constant({ dtype: "u32", shape: [2, 1], data: [0, site] }), 2);
  let lower = "";
  for (let round = 0; round < ROUNDS; round++) {
    const factors = round % 2 === 0 ? MULTIPLIERS : MULTIPLIERS.toReversed();
    const product = (isNarrow ? productOfHalves : wideProduct)(body, even, factors);
    const { upper } = product;
    lower = product.lower;
    const first = body.op("Mul", [bytesOf(upper, 2), body.scalar(256, "i32")]);
    even = wordOf(lookUp(table, lookUp(shiftedTable, first, odd), keys[round]!));
    odd = body.op("Concat", apart(bytesOf(lower, 2)).toReversed(), { axis: 0 });
  }
  // Words 0 and 2 are the lanes' own, 1 and 3 the lower halves of the last products.
  const result = isNarrow ? "u32" : "i64";
  const [c0, c2] = apart(body.op("Cast", [even], { to: result })) as [string, string];
  const [c1, c3] = apart(body.op("Cast", [lower], { to: result })) as [string, string];
  return body.op("Concat", [c0, c1, c2, c3], { axis: 0 });
}

interface Product {
  /** Both u32. */
  readonly upper: string;
  readonly lower: string;
}

/** Multiplies u64 [2, blocks] by a factor for each lane. */
function wideProduct(body: BodyBuilder, words: string, factors: readonly number[]): Product {
  const product = body.op("Mul", [words, body.constant({ dtype: "u64", shape: [2, 1], data: factors })]);
  const upper = body.op("Div", [product, body.scalar(2 ** 32, "u64")]);
  return { upper: body.op("Cast", [upper], { to: "u32" }), lower: body.op("Cast", [product], { to: "u32" }) };
}

const HALF = 2 ** 16;

/**
 * Multiplies u32 [2, blocks] by a factor for each lane, by products of upper and lower halves: with w = 2^16 h + l and a factor 2^16 f + g,
 * w (2^16 f + g) = 2^32 h f + 2^16 (l f + h g) + l g. None of the four products reaches 2^32.
 */
function productOfHalves(body: BodyBuilder, words: string, factors: readonly number[]): Product {
  const each = (data: readonly number[]) => body.constant({ dtype: "u32", shape: [2, 1], data });
  const [f, g] = [each(factors.map((factor) => Math.floor(factor / HALF))), each(factors.map((factor) => factor % HALF))];
  const upperOf = (word: string) => body.op("Div", [word, body.scalar(HALF, "u32")]);
  const add = (...terms: readonly string[]) => terms.reduce((sum, term) => body.op("Add", [sum, term]));
  const [h, l] = [upperOf(words), remainder(body, words, HALF)];
  const [hf, lf, hg, lg] = [body.op("Mul", [h, f]), body.op("Mul", [l, f]), body.op("Mul", [h, g]), body.op("Mul", [l, g])];
  const carried = add(upperOf(lg), remainder(body, lf, HALF), remainder(body, hg, HALF));
  const upper = add(hf, upperOf(lf), upperOf(hg), upperOf(carried));
  return { upper, lower: body.op("Mul", [words, each(factors)]) };
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
