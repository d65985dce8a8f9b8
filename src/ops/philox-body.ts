import type { BodyBuilder } from "./types.ts";

/**
 * Philox 4x32-10 in standard operators: see `PhiloxDropout`. Of `elements` elements, which have a random word of at least
 * `threshold` -> bool [elements].
 */
export function philoxBody(body: BodyBuilder, stream: Stream, threshold: number): string {
  const blocks = Math.ceil(stream.elements / 4);
  const size = Math.max(CHUNK, Math.ceil(blocks / MOST_CHUNKS));
  const words = body.bitOps ? wordsByBits : wordsByTable;
  const parts = Array.from({ length: Math.ceil(blocks / size) }, (_, i) => {
    const chunk = { ...stream, from: i * size, to: Math.min((i + 1) * size, blocks) };
    return body.op("GreaterOrEqual", [words(body, chunk), body.scalar(threshold, "i64")]);
  });
  const all = parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
  return body.op("Slice", [body.op("Reshape", [all, body.ints([-1])]), body.ints([0]), body.ints([stream.elements])]);
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
/** Of the counter's words 0 and 2. */
const MULTIPLIERS = [0xd2511f53, 0xcd9e8d57] as const;
/** What the key's words grow by from round to round. */
const WEYL = [0x9e3779b9, 0xbb67ae85] as const;

/**
 * With bit operations: words are i64 in 0..2^32-1 -> i64 [blocks, 4]. A 64-bit product may overflow into the sign, which
 * keeps its bits; the upper half is shifted out as u64, the type that BitShift has.
 */
function wordsByBits(body: BodyBuilder, { rng, segment, site, from, to }: Chunk): string {
  const integer = (value: number) => body.scalar(value, "i64");
  const low = (a: string) => body.op("BitwiseAnd", [a, integer(0xffffffff)]);
  const xor = (a: string, b: string) => body.op("BitwiseXor", [a, b]);
  const word = (a: string) => low(body.op("Cast", [a], { to: "i64" }));
  const high = (product: string) => {
    const bits = body.op("Cast", [product], { to: "u64" });
    const shifted = body.op("BitShift", [bits, body.scalar(32, "u64")], { direction: "RIGHT" });
    return body.op("Cast", [shifted], { to: "i64" });
  };

  const keys = word(rng);
  let key0 = body.op("Gather", [keys, body.ints([0])]);
  let key1 = body.op("Gather", [keys, body.ints([1])]);
  let c0 = body.op("Range", [integer(from), integer(to), integer(1)]);
  let c1 = body.constant({ dtype: "i64", shape: [1], data: [site] });
  let c2 = word(segment);
  let c3 = body.constant({ dtype: "i64", shape: [1], data: [0] });
  for (let round = 0; round < ROUNDS; round++) {
    const product0 = body.op("Mul", [c0, integer(MULTIPLIERS[0])]);
    const product1 = body.op("Mul", [c2, integer(MULTIPLIERS[1])]);
    c0 = xor(xor(high(product1), c1), key0);
    c2 = xor(xor(high(product0), c3), key1);
    c1 = low(product1);
    c3 = low(product0);
    key0 = low(body.op("Add", [key0, integer(WEYL[0])]));
    key1 = low(body.op("Add", [key1, integer(WEYL[1])]));
  }
  const column = (a: string) => body.op("Reshape", [a, body.ints([-1, 1])]);
  const expanded = [c0, c1, c2, c3].map((c) => column(body.op("Expand", [c, body.ints([to - from])])));
  return body.op("Concat", expanded, { axis: 1 });
}

/**
 * Without them: arithmetic of unsigned integers wraps around, a division shifts, a cast to a smaller type cuts off the upper
 * bits, and bytes a and b of an exclusive or select an entry of a table. -> i64 [blocks, 4]
 *
 * Both halves of a round are one computation on two *lanes* [2, blocks]. A lane's word goes to the other word of the
 * counter in each round, so what is there in which lane changes: lane 0 begins with word 0, lane 1 with word 2, and after
 * ten rounds that is so again. `odd` is what the product's upper half is combined with: words 3 and 1, by bytes.
 */
function wordsByTable(body: BodyBuilder, { rng, segment, site, from, to }: Chunk): string {
  const blocks = to - from;
  const lanes = body.ints([2, blocks]);
  const places = body.constant({ dtype: "u32", shape: [4], data: [1, 2 ** 8, 2 ** 16, 2 ** 24] });
  /** [...] u32 -> [..., 4] i32, the lowest byte first. */
  const bytesOf = (words: string, axis: number) => {
    const shifted = body.op("Div", [body.op("Unsqueeze", [words, body.ints([axis])]), places]);
    return body.op("Cast", [body.op("Cast", [shifted], { to: "u8" })], { to: "i32" });
  };
  /** [2, blocks, 4] -> u64 [2, blocks] */
  const wordOf = (bytes: string) => {
    const placed = body.op("Mul", [body.op("Cast", [bytes], { to: "u32" }), places]);
    const parts = body.ops("Split", [placed, body.ints([1, 1, 1, 1])], { axis: 2 }, 4);
    const word = parts.reduce((sum, part) => body.op("Add", [sum, part]));
    return body.op("Cast", [body.op("Reshape", [word, lanes])], { to: "u64" });
  };

  const table = xorTable(body);
  const shiftedTable = body.op("Mul", [table, body.scalar(256, "i32")]);
  const lookUp = (entries: string, high: string, low: string) => body.op("Gather", [entries, body.op("Add", [high, low])]);

  const keys = roundKeys(body, rng, bytesOf);
  const counter = body.op("Range", [body.scalar(from, "i64"), body.scalar(to, "i64"), body.scalar(1, "i64")]);
  const segments = body.op("Expand", [body.op("Cast", [segment], { to: "i64" }), body.ints([blocks])]);
  const start = body.op("Concat", [counter, segments], { axis: 0 });
  // Cut to 32 bits, which is where a negative number's bits are.
  const word = body.op("Cast", [body.op("Cast", [body.op("Reshape", [start, lanes])], { to: "u32" })], { to: "u64" });
  let even = word;
  let odd = bytesOf(body.constant({ dtype: "u32", shape: [2, 1], data: [0, site] }), 2);
  let lower = "";
  for (let round = 0; round < ROUNDS; round++) {
    const factors = round % 2 === 0 ? MULTIPLIERS : MULTIPLIERS.toReversed();
    const product = body.op("Mul", [even, body.constant({ dtype: "u64", shape: [2, 1], data: factors })]);
    const upper = body.op("Cast", [body.op("Div", [product, body.scalar(2 ** 32, "u64")])], { to: "u32" });
    lower = body.op("Cast", [product], { to: "u32" });
    const first = body.op("Mul", [bytesOf(upper, 2), body.scalar(256, "i32")]);
    even = wordOf(lookUp(table, lookUp(shiftedTable, first, odd), keys[round]!));
    const [lane0, lane1] = body.ops("Split", [bytesOf(lower, 2), body.ints([1, 1])], { axis: 0 }, 2);
    odd = body.op("Concat", [lane1!, lane0!], { axis: 0 });
  }
  // Words 0 and 2 are the lanes' own, 1 and 3 the lower halves of the last products.
  const pair = (words: string) => body.op("Unsqueeze", [body.op("Cast", [words], { to: "i64" }), body.ints([2])]);
  const both = body.op("Concat", [pair(even), pair(lower)], { axis: 2 });
  return body.op("Reshape", [body.op("Transpose", [both], { perm: [1, 0, 2] }), body.ints([blocks, 4])]);
}

/** i32 [65536]: entry 256 a + b is a xor b, made of the 256 ones for half bytes. */
function xorTable(body: BodyBuilder): string {
  const data = Array.from({ length: 256 }, (_, i) => (i >> 4) ^ (i & 15));
  const part = (shape: readonly number[]) => body.constant({ dtype: "i32", shape, data });
  const upper = body.op("Mul", [part([16, 1, 16, 1]), body.scalar(16, "i32")]);
  return body.op("Reshape", [body.op("Add", [upper, part([1, 16, 1, 16])]), body.ints([-1])]);
}

/** The bytes of each round's key, i32 [2, 1, 4]: in round 0 word 1 for lane 0, then the words change places. */
function roundKeys(body: BodyBuilder, rng: string, bytesOf: (words: string, axis: number) => string): string[] {
  const order = Array.from({ length: ROUNDS }, (_, round) => (round % 2 === 0 ? [1, 0] : [0, 1]));
  const growth = order.flatMap((words, round) => words.map((word) => (round * WEYL[word as 0 | 1]) % 2 ** 32));
  const key = body.op("Gather", [body.op("Cast", [rng], { to: "i64" }), body.ints(order.flat())]);
  const grown = body.op("Add", [key, body.constant({ dtype: "i64", shape: [2 * ROUNDS], data: growth })]);
  const bytes = body.op("Reshape", [bytesOf(body.op("Cast", [grown], { to: "u32" }), 1), body.ints([2 * ROUNDS, 1, 4])]);
  return body.ops("Split", [bytes, body.ints(Array<number>(ROUNDS).fill(2))], { axis: 0 }, ROUNDS);
}
