import type { BodyBuilder } from "./types.ts";

/**
 * A mixture of experts and its gradient in standard operators. Shapes are static, so every expert computes all tokens, and its result has the
 * weight 0 where it was not chosen.
 */

const binary = (body: BodyBuilder, name: string) => (a: string, b: string) => body.op(name, [a, b]);

/** For each expert what of the tokens is its own: where it is chosen [T, k], and the weight that it has [T, 1]. */
function forEach(
  body: BodyBuilder,
  [weights, experts, ...matrices]: readonly string[],
  use: (
    expert: { readonly chosen: string; readonly weight: string },
    [gate, up, down]: readonly [gate: string, up: string, down: string],
  ) => void,
): void {
  for (let i = 0; 3 * i < matrices.length; i++) {
    const chosen = body.op("Equal", [experts!, body.scalar(i, "i32")]);
    const own = body.op("Where", [chosen, weights!, body.scalar(0)]);
    const weight = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
    use({ chosen, weight }, matrices.slice(3 * i, 3 * i + 3) as [string, string, string]);
  }
}

export function expertMlpBody(body: BodyBuilder, [x, ...others]: readonly string[]): string[] {
  const [add, mul] = [binary(body, "Add"), binary(body, "Mul")];
  let sum: string | null = null;
  forEach(body, others, ({ weight }, [gate, up, down]) => {
    const g = body.op("Gemm", [x!, gate], { transB: 1 });
    const u = body.op("Gemm", [x!, up], { transB: 1 });
    const h = mul(mul(g, body.op("Sigmoid", [g])), u);
    const y = mul(body.op("Gemm", [h, down], { transB: 1 }), weight);
    sum = sum === null ? y : add(sum, y);
  });
  return [sum!];
}

export function expertMlpGradBody(body: BodyBuilder, [dy, x, ...others]: readonly string[]): string[] {
  const [add, mul, sub] = [binary(body, "Add"), binary(body, "Mul"), binary(body, "Sub")];
  const sums: string[] = [];
  const dmatrices: string[] = [];
  forEach(body, others, ({ chosen, weight }, [gate, up, down]) => {
    const g = body.op("Gemm", [x!, gate], { transB: 1 });
    const u = body.op("Gemm", [x!, up], { transB: 1 });
    const s = body.op("Sigmoid", [g]);
    const silu = mul(g, s);
    const h = mul(silu, u);
    const r = body.op("Gemm", [dy!, down]);
    const dh = mul(r, weight);
    const slope = mul(s, add(body.scalar(1), sub(g, silu)));
    const dg = mul(mul(dh, u), slope);
    const du = mul(dh, silu);
    const dx = add(body.op("Gemm", [dg, gate]), body.op("Gemm", [du, up]));
    const dot = body.op("ReduceSum", [mul(h, r), body.ints([1])], { keepdims: 1 });
    const dweights = body.op("Where", [chosen, dot, body.scalar(0)]);
    [dx, dweights].forEach((part, i) => {
      sums[i] = sums[i] === undefined ? part : add(sums[i]!, part);
    });
    dmatrices.push(
      body.op("Gemm", [dg, x!], { transA: 1 }),
      body.op("Gemm", [du, x!], { transA: 1 }),
      body.op("Gemm", [dy!, mul(h, weight)], { transA: 1 }),
    );
  });
  return [...sums, ...dmatrices];
}
