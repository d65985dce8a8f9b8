import { ptr } from "bun:ffi";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createRandom } from "../../../src/base/random.ts";
import { GraphBuilder } from "../../../src/graph/builder.ts";
import type { OpDef } from "../../../src/ops/types.ts";
import { Gelu, GeluGrad } from "../../../src/ops/gelu.ts";
import { SwiGLU, SwiGLUGrad } from "../../../src/ops/swiglu.ts";
import { hasBf16, pointwiseRoutines } from "../../../src/wasm/machine-code/executable.ts";
import { NUMBERS, SUM_RUN } from "../../../src/wasm/machine-code/layout.ts";
import { createPointwiseCalls } from "../../../src/wasm/machine-code/pointwise/pointwise-calls.ts";
import { runOn, sharedExecutors } from "../../support/executor.ts";
import { f32, type TestTensor } from "../../support/ops.ts";

setDefaultTimeout(120_000);

const [PAGE, PAGES] = [65536, 24];
const memory = new WebAssembly.Memory({ initial: PAGES, maximum: PAGES, shared: true });
const base = Number(ptr(new Uint8Array(memory.buffer, 0, 1)));
const executor = sharedExecutors();

const bitsOf = (value: number): number => new Uint32Array(Float32Array.of(value).buffer)[0]!;
const floatOf = (bits: number): number => new Float32Array(Uint32Array.of(bits).buffer)[0]!;
/** All NaN are one. */
const same = (values: Iterable<number>): number[] => Array.from(values, (value) => (Number.isNaN(value) ? -1 : bitsOf(value)));

/** Numbers of all exponents and both signs, subnormal ones too, and many where exponentials are neither 0 nor infinite. */
function numbers(count: number, seed: number): Float32Array {
  const random = createRandom(seed, "numbers");
  const special = [0, -0, Infinity, -Infinity, NaN, 88.8, -87.33, -87.3, 88.37, 1e-45, -1e-45, 3.4e38, -3.4e38];
  return Float32Array.from({ length: count }, (_, i) => {
    const kind = random.below(8);
    if (kind === 0) return special[i % special.length]!;
    if (kind === 1) return floatOf(random.below(2 ** 32));
    return (random.uniform() - 0.5) * (kind < 4 ? 200 : 12);
  });
}

const sum = (a: number, b: number) => Math.fround(a + b);
const times = (a: number, b: number) => Math.fround(a * b);
const { perLn2, shift, ln2High, ln2Low, q4, q3, q2, q1, q0, most, least } = Object.fromEntries(
  Object.entries(NUMBERS).map(([name, value]) => [name, Math.fround(value)]),
) as unknown as Record<keyof typeof NUMBERS, number>;

/** exp4 of assembly/math.ts, one operation after the other. */
function exp(x: number): number {
  if (x < least) return 0;
  const y = x > most ? most : x;
  const t = sum(times(y, perLn2), shift);
  const n = sum(t, -shift);
  const r = sum(sum(y, -times(n, ln2High)), -times(n, ln2Low));
  const q = [q3, q2, q1, q0].reduce((high, low) => sum(times(high, r), low), q4);
  return times(sum(sum(times(q, times(r, r)), r), 1), floatOf(bitsOf(t) << 23));
}

/** bf16, rounded to nearest even, of numbers that are none below 0. */
const narrow = (x: number): number => (Number.isNaN(x) ? 0x7fc0 : (bitsOf(x) + 0x7fff + ((bitsOf(x) >>> 16) & 1)) >>> 16);

describe.skipIf(pointwiseRoutines() === null)("what is computed element by element", () => {
  const graphOf = (op: OpDef<{ approximate?: string }>, inputs: readonly TestTensor[], approximate: string | null) => {
    const builder = new GraphBuilder("pointwise");
    const names = inputs.map((tensor, i) => builder.input(`x${i}`, "boundary", { dtype: "f32", shape: tensor.shape }));
    for (const name of builder.node(op, names, approximate === null ? {} : { approximate }, "forward"))
      builder.output({ name, role: "boundary" });
    return { graph: builder.build(), feeds: new Map(inputs.map((tensor, i) => [`x${i}`, tensor])) };
  };

  for (const [op, inputs, approximate] of [
    [SwiGLU, 2, null],
    [SwiGLUGrad, 3, null],
    [Gelu, 1, "none"],
    [Gelu, 1, "tanh"],
    [GeluGrad, 2, "none"],
    [GeluGrad, 2, "tanh"],
  ] as const)
    for (const count of [256, 257, 271, 4096 + 15, 60_000])
      test(`${op.name}${approximate === null ? "" : ` (${approximate})`} of ${count} numbers of all kinds: the bits of WebAssembly's kernel`, async () => {
        const operands = Array.from({ length: inputs }, (_, i) => f32([count], numbers(count, i + 1)));
        const { graph, feeds } = graphOf(op as OpDef<{ approximate?: string }>, operands, approximate);
        const expected = runOn(await executor("wasm", 1), graph, feeds);
        for (const threads of [1, 2]) {
          const got = runOn(await executor("codes", threads), graph, feeds);
          for (const [name, values] of expected) expect(same(got.get(name)!)).toEqual(same(values));
        }
      });

  const calls = () => createPointwiseCalls(memory, base, PAGE, pointwiseRoutines()!);
  const UNTOUCHED = 7;
  const place = (at: number, count: number) => new Float32Array(memory.buffer, at, count);

  for (const [rows, columns] of [
    [1, 1],
    [3, 16],
    [SUM_RUN, 17],
    [SUM_RUN + 1, 48],
    [2 * SUM_RUN + 5, 63],
    [256, 256],
  ] as const)
    for (const isNarrow of hasBf16() ? [false, true] : [false])
      test(`exponentials of ${rows} rows and ${columns} columns${isNarrow ? ", kept as bf16" : ""}: the documented operations to the bit`, () => {
        const [x, kept, top, sums] = [2 * PAGE, 8 * PAGE, 12 * PAGE, 13 * PAGE];
        const logits = numbers(rows * columns, rows + columns).map((value) => (Math.abs(value) > 1e3 ? 1 : value));
        place(x, logits.length).set(logits);
        const halves = new Uint16Array(memory.buffer, kept, logits.length + 32).fill(UNTOUCHED);
        place(top, columns + 1).fill(UNTOUCHED);
        place(sums, columns + 1).fill(UNTOUCHED);
        place(x + 4 * logits.length, 1)[0] = UNTOUCHED;
        expect(calls().exponentials(x, isNarrow ? kept : 0, top, sums, rows, columns)).toBe(1);

        const maxima = Array.from({ length: columns }, (_, i) => {
          let greatest = logits[i]!;
          for (let row = 1; row < rows; row++) if (logits[row * columns + i]! > greatest) greatest = logits[row * columns + i]!;
          return greatest;
        });
        const exponentials = logits.map((value, i) => exp(sum(value, -maxima[i % columns]!)));
        const totals = maxima.map((_, i) => {
          let total = 0;
          for (let start = 0; start < rows; start += SUM_RUN) {
            let run = 0;
            for (let row = start; row < Math.min(rows, start + SUM_RUN); row++) run = sum(run, exponentials[row * columns + i]!);
            total = sum(total, run);
          }
          return total;
        });
        expect(same(place(top, columns + 1))).toEqual(same([...maxima, UNTOUCHED]));
        expect(same(place(sums, columns + 1))).toEqual(same([...totals, UNTOUCHED]));
        expect(same(place(x, logits.length + 1))).toEqual(same([...(isNarrow ? logits : exponentials), UNTOUCHED]));
        const left = Array.from(halves, (half, i) => (isNarrow && Number.isNaN(exponentials[i] ?? 0) ? 0x7fc0 : half));
        const written = isNarrow ? Array.from(exponentials, narrow) : Array.from(logits, () => UNTOUCHED);
        expect(left).toEqual([...written, ...Array.from({ length: 32 }, () => UNTOUCHED)]);
      });

  for (const [rows, columns] of [
    [1, 1],
    [5, 16],
    [7, 31],
    [64, 190],
  ] as const)
    for (const isNarrow of [false, true])
      test(`${rows} rows of ${columns} columns${isNarrow ? ", from bf16" : ""} scaled: the documented operations to the bit`, () => {
        const [from, x, scales] = [2 * PAGE, 4 * PAGE, 6 * PAGE];
        const [factor, negligible] = [Math.fround(0.37), Math.fround(1e-26)];
        const values = numbers(rows * columns, 5).map((value) =>
          isNarrow ? floatOf((bitsOf(value) & 0xffff0000) >>> 0) : value,
        );
        const factors = numbers(columns, 6).map((value, i) => (i % 3 === 0 ? value * 1e-26 : value));
        place(scales, columns).set(factors);
        new Uint16Array(memory.buffer, from, values.length).set(Array.from(values, (value) => bitsOf(value) >>> 16));
        place(x, values.length + 1).fill(UNTOUCHED);
        if (!isNarrow) place(x, values.length).set(values);
        calls().scaled(isNarrow ? from : 0, x, scales, rows, columns, factor, negligible);
        const expected = Array.from(values, (value, i) => {
          const product = times(value, factors[i % columns]!);
          return Math.abs(product) < negligible ? 0 : times(product, factor);
        });
        expect(same(place(x, values.length + 1))).toEqual(same([...expected, UNTOUCHED]));
      });
});
