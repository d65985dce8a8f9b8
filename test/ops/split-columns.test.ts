import { expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { JoinColumns, SplitColumns } from "../../src/ops/split-columns.ts";
import {
  checkForward,
  checkGradient,
  expectSameBits,
  generator,
  random,
  type Reference,
  runGraph,
  runWasm,
} from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

interface Attrs extends Record<string, number | readonly number[]> {
  readonly groups: number;
  readonly sizes: readonly number[];
}

/** Each row, group by group: its pieces cut out one after another. */
const split =
  ({ groups, sizes }: Attrs): Reference =>
  ([x]) => {
    const width = sizes.reduce((sum, size) => sum + size, 0);
    const rows = x!.length / width;
    expect(rows % groups).toBe(0);
    let from = 0;
    return sizes.map((size) => {
      const part = Array.from({ length: rows * size }, (_, i) => x![Math.floor(i / size) * width + from + (i % size)]!);
      from += size;
      return part;
    });
  };

const join =
  ({ sizes }: Attrs): Reference =>
  (parts) => {
    const rows = parts[0]!.length / sizes[0]!;
    const cells = Array.from({ length: rows }, (_, row) =>
      sizes.map((size, i) => [...parts[i]!.subarray(row * size, (row + 1) * size)]),
    );
    return [cells.flat(2)];
  };

const CASES: readonly (readonly [tokens: number, attrs: Attrs])[] = [
  [1, { groups: 1, sizes: [5] }],
  [7, { groups: 1, sizes: [12, 4, 4] }],
  [9, { groups: 3, sizes: [10, 5, 5] }],
  [61, { groups: 2, sizes: [33, 1] }],
];

for (const [tokens, attrs] of CASES) {
  const { groups, sizes } = attrs;
  const width = groups * sizes.reduce((sum, size) => sum + size, 0);

  test(`SplitColumns of ${tokens} rows in ${groups} x (${sizes.join(" + ")}): exact, gradients too`, async () => {
    const inputs = [random(generator(1), [tokens, width])];
    const shared = { op: SplitColumns, inputs, attrs, reference: split(attrs) };
    const outputs = await checkForward({ ...shared, bound: 0 });
    expectSameBits("3 threads", await runWasm(SplitColumns, inputs, attrs, { threads: 3 }), outputs);
    await checkGradient({ ...shared, wrt: [0], bound: 1e-6, samples: 40 });
    await checkOnnx({ op: SplitColumns, inputs, attrs, bound: 0 });
  });

  test(`JoinColumns of ${tokens} rows in ${groups} x (${sizes.join(" + ")}): exact, gradients too`, async () => {
    const rng = generator(2);
    const inputs = sizes.map((size) => random(rng, [tokens, groups * size]));
    const shared = { op: JoinColumns, inputs, attrs, reference: join(attrs) };
    const outputs = await checkForward({ ...shared, bound: 0 });
    expectSameBits("3 threads", await runWasm(JoinColumns, inputs, attrs, { threads: 3 }), outputs);
    await checkGradient({ ...shared, wrt: sizes.map((_, i) => i), bound: 1e-6, samples: 40 });
    await checkOnnx({ op: JoinColumns, inputs, attrs, bound: 0 });
  });
}

test("JoinColumns: an absent part is zeros, on both executors", async () => {
  const attrs = { groups: 2, sizes: [2, 3, 1] };
  const rng = generator(3);
  const inputs = [random(rng, [5, 4]), null, random(rng, [5, 2])];
  const reference: Reference = ([first, , last]) => join(attrs)([first!, new Float64Array(30), last!]);
  await checkForward({ op: JoinColumns, inputs, attrs, reference, bound: 0 });
  await checkOnnx({ op: JoinColumns, inputs, attrs, bound: 0 });
});

test("a part that nobody uses is not computed", async () => {
  const builder = new GraphBuilder("part");
  const x = builder.input("x", "boundary", { dtype: "f32", shape: [4, 6] });
  const [, second] = builder.node(SplitColumns, [x], { groups: 1, sizes: [4, 2] });
  builder.output({ name: second!, role: "boundary" });
  const value = random(generator(4), [4, 6]);
  const result = (await runGraph(builder.build(), new Map([["x", value]]))).get(second!)!;
  expect([...result]).toEqual([...value.data].filter((_, i) => i % 6 >= 4));
});

test("shapes that do not fit are refused", () => {
  const attrs = { groups: 2, sizes: [4, 2] };
  expect(() => SplitColumns.infer([{ dtype: "f32", shape: [3, 6] }], attrs)).toThrow(
    "SplitColumns: expected float x [T, 2 * (4 + 2)]; got f32[3, 6]",
  );
  const parts = [8, 5].map((width) => ({ dtype: "f32" as const, shape: [3, width] }));
  expect(() => JoinColumns.infer(parts, attrs)).toThrow(
    "JoinColumns: expected parts [T, 2 * (4 or 2)] of one float type; got f32[3, 8], f32[3, 5]",
  );
});
