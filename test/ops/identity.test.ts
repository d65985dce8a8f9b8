import { setDefaultTimeout, test } from "bun:test";
import { Identity } from "../../src/ops/identity.ts";
import { checkForward, checkGradient, generator, i32, random, type Reference } from "../support/ops.ts";
import { checkOnnx } from "../support/parity.ts";

setDefaultTimeout(120_000);

const reference: Reference = ([x]) => [x!];

for (const shape of [[1], [16], [5, 7], [61, 67]]) {
  test(`Identity of [${shape.join(", ")}] copies f32 and i32, and its gradient`, async () => {
    const x = random(generator(1), shape);
    const integers = i32(
      shape,
      Array.from(x.data, (value) => value * 1e6),
    );
    await checkForward({ op: Identity, inputs: [x], attrs: {}, reference, bound: 0 });
    await checkForward({ op: Identity, inputs: [integers], attrs: {}, reference, bound: 0 });
    await checkGradient({ op: Identity, inputs: [x], attrs: {}, reference, wrt: [0], bound: 1e-6, samples: 50 });
    await checkOnnx({ op: Identity, inputs: [x], attrs: {}, bound: 0 });
  });
}
