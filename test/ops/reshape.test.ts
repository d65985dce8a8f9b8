import { expect, setDefaultTimeout, test } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { Mul } from "../../src/ops/mul.ts";
import { Reshape } from "../../src/ops/reshape.ts";
import { checkForward, checkGradient, generator, random, type Reference, runGraph } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([x]) => [x!];
const attrs = { shape: [21, 2] };

test("Reshape: the same numbers, the gradient in the old shape", async () => {
  const inputs = [random(generator(1), [6, 7])];
  await checkForward({ op: Reshape, inputs, attrs, reference, bound: 0 });
  await checkGradient({ op: Reshape, inputs, attrs, reference, wrt: [0], bound: 1e-6 });
  await checkOnnx({ op: Reshape, inputs, attrs, bound: 0 });
});

test("Reshape in the middle of a graph takes no memory of its own", async () => {
  const build = (reshape: boolean) => {
    const builder = new GraphBuilder("middle");
    const x = builder.input("x", "boundary", { dtype: "f32", shape: [6, 7] });
    const square = builder.value(Mul, [x, x], {});
    const value = reshape ? builder.value(Reshape, [square], { shape: [42] }) : square;
    builder.output({ name: builder.value(Mul, [value, value], {}, "y"), role: "boundary" });
    return builder.build();
  };
  const x = random(generator(2), [6, 7]);
  const run = (reshape: boolean) => runGraph(build(reshape), new Map([["x", x]]));
  expect((await run(true)).get("y")).toEqual((await run(false)).get("y")!);
});

test("Reshape refuses another number of elements", () => {
  expect(() => Reshape.infer([{ dtype: "f32", shape: [6, 7] }], { shape: [6, 8] })).toThrow(
    "Reshape: expected as many elements as [6, 8] has; got f32[6, 7]",
  );
});
