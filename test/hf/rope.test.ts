import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { parseConfig } from "../../src/models/families/index.ts";
import { createRope, inverseFrequencies, shortLimit } from "../../src/models/rotary-tables.ts";

setDefaultTimeout(120_000);

interface Case {
  readonly name: string;
  readonly config: Record<string, unknown>;
  readonly positions: number[];
  readonly attention_factor: number;
  readonly inverse: number[];
  readonly cos: number[];
  readonly sin: number[];
}

const cases = (await Bun.file(join(import.meta.dir, "../golden/rope.json")).json()) as Case[];

const named = (name: string) => cases.find((golden) => golden.name === name)!;

/** The fixture stores f32 as bit patterns. */
const floats = (bits: number[]) => new Float32Array(Uint32Array.from(bits).buffer);
const bitsOf = (values: Float32Array) => new Int32Array(values.buffer);

/** Tokens of the sequence that has the positions. */
const lengthOf = ({ positions }: Case) => positions.at(-1)! + 1;

test("inverse frequencies equal Transformers' bit for bit, save where PyTorch's pow is a unit in the last place off, which the reciprocal makes up to two (at most 2 % of them)", () => {
  let different = 0;
  let total = 0;
  for (const golden of cases) {
    const config = parseConfig(golden.config);
    const { inverse, attentionFactor } = inverseFrequencies(config, lengthOf(golden) > shortLimit(config));
    expect(attentionFactor).toBe(golden.attention_factor);
    expect(inverse.length).toBe(golden.inverse.length);
    const expected = bitsOf(floats(golden.inverse));
    bitsOf(inverse).forEach((bits, i) => {
      expect(Math.abs(bits - expected[i]!)).toBeLessThanOrEqual(2);
      if (bits !== expected[i]) different++;
      total++;
    });
  }
  expect(different / total).toBeLessThan(0.02);
});

test("cos and sin equal Transformers' within 2^-23 (plus what the last place of the frequency moves the angle)", () => {
  for (const golden of cases) {
    const config = parseConfig(golden.config);
    const half = config.rotaryDim / 2;
    const { inverse } = inverseFrequencies(config, lengthOf(golden) > shortLimit(config));
    const reference = floats(golden.inverse);
    const tables = createRope(config)(Int32Array.from(golden.positions), undefined, lengthOf(golden));
    const expected = { cos: floats(golden.cos), sin: floats(golden.sin) };
    for (const part of ["cos", "sin"] as const) {
      expect(tables[part].length).toBe(golden.positions.length * half);
      tables[part].forEach((value, i) => {
        const moved = golden.positions[Math.floor(i / half)]! * Math.abs(inverse[i % half]! - reference[i % half]!);
        // One rounding of the angle more, when the frequency differs: 2^-23 relative to the angle.
        const slack = moved === 0 ? 0 : moved + golden.positions[Math.floor(i / half)]! * inverse[i % half]! * 2 ** -23;
        expect(Math.abs(value - expected[part][i]!)).toBeLessThanOrEqual(2 ** -23 + slack);
      });
    }
  }
});

test("LongRoPE: each example of a row is a short or a long one by its own length, padding a short one", () => {
  const config = parseConfig(named("phi3-long").config);
  const limit = shortLimit(config);
  expect(limit).toBe(2048);
  const [short, long] = [limit, limit + 1].map((length) => Int32Array.from({ length }, (_, t) => t));
  const positions = Int32Array.of(...short!, ...long!, 0, 0, ...short!.subarray(0, 5));
  const tables = createRope(config)(positions);
  const rope = createRope(config);
  const [first, second] = [rope(short!, undefined, 1), rope(long!, undefined, 1e6)];
  const half = config.rotaryDim / 2;
  for (const part of ["cos", "sin"] as const) {
    const zeros = first[part].subarray(0, half);
    const expected = [first[part], second[part], zeros, zeros, first[part].subarray(0, 5 * half)].flatMap((rows) => [...rows]);
    expect(tables[part]).toEqual(Float32Array.from(expected));
  }
  expect(first.cos.subarray(half, 2 * half)).not.toEqual(second.cos.subarray(half, 2 * half));
});

test("tables written in place and grown step by step are the same bits", () => {
  const config = parseConfig(cases[2]!.config);
  const rope = createRope(config);
  rope(Int32Array.of(0, 1, 5));
  const positions = Int32Array.of(900, 3, 3, 0, 77);
  const into = { cos: new Float32Array(5 * 32), sin: new Float32Array(5 * 32) };
  expect(rope(positions, into)).toBe(into);
  expect(into).toEqual(createRope(config)(positions) as typeof into);
});
