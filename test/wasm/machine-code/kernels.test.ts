import { ptr } from "bun:ffi";
import { describe, expect, test } from "bun:test";
import { createRandom } from "../../../src/base/random.ts";
import { bf16Kernel, bf16Routines, hasBf16 } from "../../../src/wasm/machine-code/executable.ts";
import { BF16, BF16_SCRATCH, F32 } from "../../../src/wasm/machine-code/pack.ts";
import { createBf16Product } from "../../../src/wasm/machine-code/product.ts";

/** Kinds of addends, as assembly/native.ts has them. */
const ADDENDS = ["none", "matrix", "row", "column"] as const;

interface Case {
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly transA?: boolean;
  readonly transB?: boolean;
  readonly addend?: (typeof ADDENDS)[number];
  /** A and B lie as bf16 in memory. */
  readonly halfA?: boolean;
  readonly halfB?: boolean;
  readonly factor?: number;
  /** Elements between the end of a row of A and the next. */
  readonly gap?: number;
}

const CASES: readonly Case[] = [
  { m: 1, n: 1, k: 1 },
  { m: 5, n: 7, k: 3, transB: true },
  { m: 14, n: 32, k: 64, transB: true },
  { m: 15, n: 33, k: 65, transB: true, addend: "matrix", factor: 0.5 },
  { m: 33, n: 17, k: 31, addend: "row" },
  { m: 47, n: 50, k: 77, transA: true, addend: "column" },
  { m: 29, n: 70, k: 701, transA: true, transB: true, addend: "matrix", factor: 2 },
  { m: 29, n: 1070, k: 120, transB: true, halfB: true },
  { m: 64, n: 90, k: 701, addend: "column", halfB: true },
  { m: 64, n: 40, k: 96, transB: true, halfA: true },
  { m: 67, n: 40, k: 97, transB: true, halfA: true, halfB: true },
  { m: 40, n: 30, k: 50, transA: true, gap: 9 },
];

const [PAGE, PAGES] = [65536, 60];
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
const base = Number(ptr(new Uint8Array(memory.buffer, 0, 1)));

/** Rounds to the nearest bf16, ties to even. */
function rounded(value: number): number {
  const word = new Uint32Array(Float32Array.of(value).buffer);
  word[0] = (word[0]! + 0x7fff + ((word[0]! >>> 16) & 1)) & 0xffff0000;
  return new Float32Array(word.buffer)[0]!;
}

/** The product of the operands as they are, of one kernel, and in float64 of operands that have been rounded. */
function both(shape: Case, addresses: ReturnType<typeof bf16Routines>) {
  const { m, n, k, transA = false, transB = false, addend = "none", halfA = false, halfB = false, factor = 1, gap = 0 } = shape;
  const product = createBf16Product(memory, base, PAGE, addresses);
  const random = createRandom(3, "operands");
  let top = PAGE + Math.ceil(BF16_SCRATCH / 64) * 64;
  const place = (count: number) => {
    const address = top;
    top += 64 * Math.ceil((4 * count) / 64) + 64;
    return { address, values: new Float32Array(memory.buffer, address, count) };
  };
  const lda = (transA ? m : k) + gap;
  const operands = [place((transA ? k : m) * lda), place(n * k)] as const;
  const exact = operands.map(({ address, values }, i) => {
    const isHalf = i === 0 ? halfA : halfB;
    const drawn = Float32Array.from(values, () => (isHalf ? rounded(random.normal()) : random.normal()));
    if (isHalf)
      new Uint16Array(memory.buffer, address, drawn.length).set(new Uint16Array(drawn.buffer).filter((_, at) => at % 2));
    else values.set(drawn);
    return drawn.map((value) => rounded(i === 0 ? Math.fround(factor * value) : value));
  });
  const [x, y] = exact as [Float32Array, Float32Array];
  const c = place(Math.max(m * n, m, n));
  c.values.forEach((_, i) => (c.values[i] = random.normal()));
  const out = place(m * n + 8);
  out.values.fill(7);
  const bits = new Uint32Array(Float32Array.of(factor).buffer)[0]!;
  const a = { address: operands[0].address, type: halfA ? BF16 : F32, stride: lda, transposed: transA };
  const b = { address: operands[1].address, type: halfB ? BF16 : F32, stride: transB ? k : n, transposed: transB };
  product(a, b, c.address, ADDENDS.indexOf(addend), out.address, m, n, k, bits, n);
  const start = {
    none: () => 0,
    matrix: (i: number, j: number) => i * n + j,
    row: (_: number, j: number) => j,
    column: (i: number) => i,
  };
  const expected = Array.from({ length: m * n }, (_, at) => {
    const [i, j] = [Math.floor(at / n), at % n];
    let sum = addend === "none" ? 0 : c.values[start[addend](i, j)]!;
    for (let p = 0; p < k; p++) sum += x[transA ? p * lda + i : i * lda + p]! * y[transB ? j * k + p : p * n + j]!;
    return sum;
  });
  return { actual: out.values.slice(0, m * n), behind: Array.from(out.values.subarray(m * n)), expected };
}

describe.skipIf(!hasBf16()).each(["avx512", "amx"] as const)("the routines of %s", (kernel) => {
  for (const shape of CASES) {
    test.skipIf(kernel === "amx" && bf16Kernel() !== "amx")(
      `${JSON.stringify(shape)}: products of rounded operands, nothing else written`,
      () => {
        const routines = bf16Routines();
        const { actual, behind, expected } = both(shape, kernel === "amx" ? routines : { ...routines, amx: null });
        // Sums in f32 of k products of deviation 1.
        const bound = 2 ** -22 * (shape.factor ?? 1) * (4 + shape.k);
        expect(Math.max(...expected.map((value, i) => Math.abs(actual[i]! - value)))).toBeLessThan(bound);
        expect(behind).toEqual(Array.from({ length: 8 }, () => 7));
      },
    );
  }
});
