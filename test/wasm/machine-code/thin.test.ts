import { ptr } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { createRandom } from "../../../src/base/random.ts";
import { thinRoutines } from "../../../src/wasm/machine-code/executable.ts";
import { ACROSS_COLUMNS, ALONG_COLUMNS, PIECE, PIECE_BYTES } from "../../../src/wasm/machine-code/layout.ts";
import { BF16, F32 } from "../../../src/wasm/machine-code/pack.ts";
import { createThinProduct } from "../../../src/wasm/machine-code/thin-product.ts";

const [PAGE, PAGES] = [65536, 24];
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
const base = Number(ptr(new Uint8Array(memory.buffer, 0, 1)));

interface Case {
  readonly rows: number;
  readonly columns: number;
  readonly k: number;
  readonly transB: boolean;
  readonly type: number;
  readonly isSum: boolean;
}

/** What no routine may write. */
const UNTOUCHED = 7;

/** The result of one kernel, of the documented order of operations, and in float64; `around` is what lies between and behind the rows. */
function both({ rows, columns, k, transB, type, isSum }: Case) {
  const product = createThinProduct(memory, base, PAGE, thinRoutines()!);
  const random = createRandom(3, "operands");
  let top = PAGE + 64;
  const place = (count: number) => {
    const address = top;
    top += 64 * Math.ceil((4 * count) / 64);
    return { address, values: new Float32Array(memory.buffer, address, count) };
  };
  const [rowsUp, termsUp, stride] = [16 * Math.ceil(rows / 16), 16 * Math.ceil(k / 16), columns + 3];
  const [a, b, out] = [place(rows * k), place(k * columns), place(rows * stride)];
  const [turned, piece] = [place(rowsUp * termsUp), place(PIECE_BYTES / 4)];
  a.values.forEach((_, i) => (a.values[i] = random.normal()));
  const right = b.values.map(() => {
    const value = Float32Array.of(random.normal());
    if (type === BF16) new Uint32Array(value.buffer)[0]! &= 0xffff0000;
    return value[0]!;
  });
  if (type === BF16)
    new Uint16Array(memory.buffer, b.address, right.length).set(new Uint16Array(right.buffer).filter((_, at) => at % 2));
  else b.values.set(right);
  out.values.fill(UNTOUCHED);
  const before = Array.from({ length: rows * columns }, () => Math.fround(random.normal()));
  const at = (i: number) => Math.floor(i / columns) * stride + (i % columns);
  before.forEach((value, i) => (out.values[at(i)] = value));

  const size = type === BF16 ? 2 : 4;
  if (transB) {
    product.turn(a.address, 4 * k, rows, k, turned.address, 4 * rowsUp);
    product.along(type, turned.address, b.address, out.address, 4 * stride, rows, columns, k, Number(isSum), piece.address);
  }
  for (let from = 0; !transB && from < k; from += PIECE) {
    const terms = Math.min(PIECE, k - from);
    product.turn(a.address + 4 * from, 4 * k, rows, terms, turned.address, 4 * rowsUp);
    const line = size * columns;
    const adds = Number(isSum || from > 0);
    const start = b.address + line * from;
    product.across(
      type,
      turned.address,
      4 * rowsUp,
      start,
      line,
      start,
      out.address,
      4 * stride,
      rows,
      columns,
      terms,
      adds,
      piece.address,
    );
  }
  const exact: number[] = [];
  const chained = before.map((value, i) => {
    const [row, column] = [Math.floor(i / columns), i % columns];
    const first = isSum ? value : 0;
    let [sum, wide] = [transB ? 0 : first, first];
    for (let p = 0; p < k; p++) {
      const term = a.values[row * k + p]! * right[transB ? column * k + p : p * columns + column]!;
      // A fused multiply-add rounds once; the float64 between holds all bits but in ties that no drawn number is near.
      sum = Math.fround(sum + term);
      wide += term;
    }
    exact.push(wide);
    return transB ? Math.fround(sum + first) : sum;
  });
  const actual = before.map((_, i) => out.values[at(i)]!);
  const around = out.values.filter((_, i) => i % stride >= columns);
  return { actual, chained, exact, around: Array.from(around) };
}

const LIMITS = [1, 15, 16, 17, PIECE - 1, PIECE, PIECE + 1, 300];
const CASES: readonly Case[] = [true, false].flatMap((transB) => {
  const tile = transB ? ALONG_COLUMNS : ACROSS_COLUMNS;
  const sizes = [
    // A call takes 32 rows where B is transposed, and any number else.
    ...[1, 2, 8, 9, 15, 16, 17, 31, 32].map((rows) => ({ rows, columns: tile + 3, k: 50 })),
    ...(transB ? [] : [{ rows: 71, columns: 100, k: 140 }]),
    ...[1, tile - 1, tile, 2 * tile, 5 * tile - 2].map((columns) => ({ rows: 11, columns, k: 33 })),
    ...LIMITS.map((k) => ({ rows: 19, columns: tile + 1, k })),
  ];
  return sizes.flatMap((size, i) => [F32, BF16].map((type) => ({ ...size, transB, type, isSum: i % 2 === 1 })));
});

describe.skipIf(thinRoutines() === null)("products of some rows with a large matrix, by machine code", () => {
  for (const shape of CASES)
    test(`${JSON.stringify(shape)}: one fused multiply-add after the other, nothing else written`, () => {
      const { actual, chained, exact, around } = both(shape);
      expect(actual).toEqual(chained);
      expect(Math.max(...exact.map((value, i) => Math.abs(actual[i]! - value)))).toBeLessThan(2 ** -22 * (4 + shape.k));
      expect(around.every((value) => value === UNTOUCHED)).toBe(true);
      expect(around.length).toBe(3 * shape.rows);
    });
});
