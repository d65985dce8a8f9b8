import { expect, setDefaultTimeout, test } from "bun:test";
import { Gelu, GeluGrad } from "../../src/ops/gelu.ts";
import { checkForward, checkGradient, expectSameBits, f32, generator, random, type Reference, runWasm } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

/** erf by its Taylor series, and beyond 3 by Lentz's continued fraction of erfc: about 1e-15. */
function erf(x: number): number {
  const a = Math.abs(x);
  if (a > 3) {
    let fraction = 0;
    for (let k = 60; k > 0; k--) fraction = k / 2 / (a + fraction);
    return Math.sign(x) * (1 - Math.exp(-a * a) / ((a + fraction) * Math.sqrt(Math.PI)));
  }
  let sum = 0;
  for (let n = 0, term = x; n < 80; n++, term *= (-x * x) / n) sum += term / (2 * n + 1);
  return (2 / Math.sqrt(Math.PI)) * sum;
}

const cdf = (x: number): number => (1 + erf(x * Math.SQRT1_2)) / 2;
const density = (x: number): number => Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
const C = Math.sqrt(2 / Math.PI);
const tanh = (x: number): number => Math.tanh(C * (x + 0.044715 * x ** 3));

const forms = {
  none: { y: (x: number) => x * cdf(x), dy: (x: number) => cdf(x) + x * density(x) },
  tanh: {
    y: (x: number) => (x * (1 + tanh(x))) / 2,
    dy: (x: number) => (1 + tanh(x)) / 2 + ((x * (1 - tanh(x) ** 2)) / 2) * C * (1 + 3 * 0.044715 * x * x),
  },
};

for (const approximate of ["none", "tanh"] as const) {
  const attrs = { approximate };
  const reference: Reference = ([x]) => [x!.map(forms[approximate].y)];
  const gradReference: Reference = ([x, dy]) => [x!.map((value, i) => dy![i]! * forms[approximate].dy(value))];

  for (const shape of [[1], [3], [7, 13], [61, 67]]) {
    test(`Gelu (${approximate}) of [${shape.join(", ")}]: error 3e-7; gradient by finite differences, error 2e-6`, async () => {
      const inputs = [random(generator(1), shape, 2)];
      const [y] = await checkForward({ op: Gelu, inputs, attrs, reference, bound: 3e-7 });
      expectSameBits("3 threads", await runWasm(Gelu, inputs, attrs, { threads: 3 }), [y!]);
      await checkGradient({ op: Gelu, inputs, attrs, reference, wrt: [0], bound: 2e-6, samples: 200 });
      await checkOnnx({ op: Gelu, inputs, attrs, bound: 1e-6 });
    });

    test(`GeluGrad (${approximate}) of [${shape.join(", ")}]: error 3e-7`, async () => {
      const rng = generator(2);
      const inputs = [random(rng, shape, 2), random(rng, shape)];
      const [dx] = await checkForward({ op: GeluGrad, inputs, attrs, reference: gradReference, bound: 3e-7 });
      expectSameBits("3 threads", await runWasm(GeluGrad, inputs, attrs, { threads: 3 }), [dx!]);
      await checkOnnx({ op: GeluGrad, inputs, attrs, bound: 1e-6 });
    });
  }

  test(`Gelu (${approximate}) and its slope on [-12, 12]: absolute error < 2.5e-7 and < 4e-7 (relative where x > 1)`, async () => {
    const x = Float32Array.from({ length: 60_001 }, (_, i) => (i - 30_000) / 2500);
    const input = f32([x.length], x);
    const [y] = await runWasm(Gelu, [input], attrs);
    const [slope] = await runWasm(
      GeluGrad,
      [
        input,
        f32(
          [x.length],
          x.map(() => 1),
        ),
      ],
      attrs,
    );
    const { y: value, dy } = forms[approximate];
    const worst = (actual: ArrayLike<number>, exact: (x: number) => number): number =>
      x.reduce((error, at, i) => Math.max(error, Math.abs(actual[i]! - exact(at)) / Math.max(1, Math.abs(exact(at)))), 0);
    expect(worst(y!, value)).toBeLessThan(2.5e-7);
    expect(worst(slope!, dy)).toBeLessThan(4e-7);
  });

  test(`Gelu (${approximate}) far out: 0 and the identity; NaN and infinity show`, async () => {
    const x = f32([6], [-1000, -50, 50, 1000, Infinity, NaN]);
    const [y] = await runWasm(Gelu, [x], attrs);
    expect([...y!].map((value) => value + 0)).toEqual([0, 0, 50, 1000, Infinity, NaN]);
    const [dx] = await runWasm(GeluGrad, [x, f32([6], [1, 1, 1, 1, 1, 1])], attrs);
    expect([...dx!.subarray(0, 4)].map((value) => value + 0)).toEqual([0, 0, 1, 1]);
    expect(dx![5]).toBeNaN();
  });
}

test("Gelu refuses other forms", () => {
  expect(() => Gelu.infer([{ dtype: "f32", shape: [3] }], { approximate: "sigmoid" as never })).toThrow(
    "approximate is none or tanh",
  );
});
