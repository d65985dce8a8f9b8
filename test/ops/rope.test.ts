import { describe, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Rope } from "../../src/ops/rope.ts";
import {
  checkForward,
  checkGradient,
  expectWithin,
  f32,
  generator,
  random,
  type Reference,
  relativeError,
  runWasm,
  type TestTensor,
} from "../support/ops.ts";
import { combinations } from "../support/slow.ts";
import { runOrt } from "../support/ort.ts";

setDefaultTimeout(120_000);

/** Tables of angles t * theta^(-2i / r). */
function tables(tokens: number, rotaryDim: number): [TestTensor, TestTensor] {
  const shape = [tokens, rotaryDim / 2];
  const angles = Array.from({ length: tokens }, (_, t) =>
    Array.from({ length: rotaryDim / 2 }, (_, i) => t * 10000 ** ((-2 * i) / rotaryDim)),
  ).flat();
  return [f32(shape, angles.map(Math.cos)), f32(shape, angles.map(Math.sin))];
}

/** Hugging Face's x * cos + rotate_half(x) * sin, with tables of the whole rotary dimension, and the same of a GLM. */
function reference(
  tokens: number,
  heads: number,
  dim: number,
  { rotaryDim, inverse, neighbours }: { readonly rotaryDim: number; readonly inverse: number; readonly neighbours?: number },
): Reference {
  const half = rotaryDim / 2;
  return ([x, cos, sin]) => {
    const y = new Float64Array(x!);
    for (let t = 0; t < tokens; t++) {
      for (let h = 0; h < heads; h++) {
        const row = (t * heads + h) * dim;
        for (let i = 0; i < rotaryDim; i++) {
          const angle = t * half + (neighbours ? i >> 1 : i % half);
          const isFirst = neighbours ? i % 2 === 0 : i < half;
          const distance = neighbours ? 1 : half;
          const rotated = isFirst ? -x![row + i + distance]! : x![row + i - distance]!;
          y[row + i] = x![row + i]! * cos![angle]! + rotated * sin![angle]! * (inverse ? -1 : 1);
        }
      }
    }
    return [y];
  };
}

const CASES = [
  { tokens: 1, heads: 1, dim: 2, rotaryDim: 2 },
  { tokens: 13, heads: 3, dim: 64, rotaryDim: 64 },
  { tokens: 7, heads: 2, dim: 10, rotaryDim: 10 },
  { tokens: 5, heads: 2, dim: 80, rotaryDim: 32 },
  { tokens: 6, heads: 3, dim: 9, rotaryDim: 6 },
];

describe("Rope", () => {
  for (const { tokens, heads, dim, rotaryDim } of CASES) {
    const title = `[${tokens}, ${heads} x ${dim}], ${rotaryDim} rotated`;
    const [cos, sin] = tables(tokens, rotaryDim);
    const inputs = [random(generator(dim), [tokens, heads * dim]), cos, sin];

    for (const [inverse, more] of combinations([0, 1], [{}, { neighbours: 1 }] as const)) {
      const attrs = { heads, rotaryDim, inverse, ...more };
      const rotate = reference(tokens, heads, dim, attrs);
      const which = `inverse ${inverse}${attrs.neighbours ? ", neighbours" : ""}`;
      test(`${title}, ${which}: relative error < 1e-7; its gradient < 1e-6`, async () => {
        await checkForward({ op: Rope, inputs, attrs, reference: rotate, bound: 1e-7 });
        await checkGradient({ op: Rope, inputs, attrs, reference: rotate, wrt: [0], bound: 1e-6, samples: 50 });
      });

      test(`${title}, ${which}: ONNX Runtime agrees within 1e-7`, async () => {
        const builder = new GraphBuilder("rope");
        const names = inputs.map((input, i) => builder.input(`in${i}`, "batch", { dtype: "f32", shape: input.shape }));
        builder.output({ name: builder.value(Rope, names, attrs, "out"), role: "boundary" });
        const feeds = new Map(names.map((name, i) => [name, inputs[i]!.data]));
        const expected = (await runOrt(builder.build(), feeds)).get("out") as Float32Array;
        const [actual] = await runWasm(Rope, inputs, attrs);
        expectWithin("Rope", relativeError(actual!, expected), 1e-7);
      });
    }
  }
});
