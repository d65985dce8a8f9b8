import type { BodyBuilder } from "./types.ts";

/**
 * A mixture of experts and its gradient in standard operators. Shapes are static, so every expert computes all tokens, and its result has the
 * weight 0 where it was not chosen.
 */

const binary = (body: BodyBuilder, name: string) => (a: string, b: string) => body.op(name, [a, b]);

/** The parts of an expert beside its matrices: see `ExpertMlp`. */
export interface ExpertKind {
  readonly activation: "swiglu" | "clamped";
  readonly alpha: number;
  readonly limit: number;
  readonly biases: 0 | 1;
}

/** The result of an expert's gate and up, and its derivatives by each of them. */
interface Gated {
  readonly hidden: string;
  readonly byGate: string;
  readonly byUp: string;
}

function gated(body: BodyBuilder, { activation, alpha, limit }: ExpertKind, g: string, u: string): Gated {
  const [add, mul, sub] = [binary(body, "Add"), binary(body, "Mul"), binary(body, "Sub")];
  const one = body.scalar(1);
  if (activation === "swiglu") {
    const s = body.op("Sigmoid", [g]);
    const silu = mul(g, s);
    return { hidden: mul(silu, u), byGate: mul(u, mul(s, add(one, sub(g, silu)))), byUp: silu };
  }
  const [most, least, zero, slope] = [limit, -limit, 0, alpha].map((value) => body.scalar(value)) as [
    string,
    string,
    string,
    string,
  ];
  // Min and max, in operators of which CUDA's kernels are known; a NaN stays one.
  const [isLow, isHigh] = [body.op("LessOrEqual", [u, least]), body.op("LessOrEqual", [most, u])];
  const gate = body.op("Where", [body.op("LessOrEqual", [most, g]), most, g]);
  const up = body.op("Where", [isHigh, most, body.op("Where", [isLow, least, u])]);
  const s = body.op("Sigmoid", [mul(gate, slope)]);
  const glu = mul(gate, s);
  const more = add(up, one);
  const rest = body.op("Sigmoid", [body.op("Neg", [mul(gate, slope)])]);
  const byGate = mul(more, add(s, mul(mul(slope, glu), rest)));
  const keepsUp = body.op("And", [body.op("LessOrEqual", [u, most]), body.op("LessOrEqual", [least, u])]);
  return {
    hidden: mul(more, glu),
    byGate: body.op("Where", [body.op("LessOrEqual", [g, most]), byGate, zero]),
    byUp: body.op("Where", [keepsUp, glu, zero]),
  };
}

/** The biases of an expert's gate, up and down, each a row. */
interface ExpertBiases {
  readonly gate: string;
  readonly up: string;
  readonly down: string;
}

/** @param inputs the two tensors of biases */
function biasesOf(body: BodyBuilder, [both, down]: readonly string[], expert: number): ExpertBiases {
  const rowOf = (x: string) => body.op("Gather", [x, body.ints([expert])], { axis: 0 });
  const pairs = body.op("Reshape", [rowOf(both!), body.ints([-1, 2])]);
  const [gate, up] = body
    .ops("Split", [pairs, body.ints([1, 1])], { axis: 1 }, 2)
    .map((x) => body.op("Reshape", [x, body.ints([1, -1])]));
  return { gate: gate!, up: up!, down: rowOf(down!) };
}

/** For each expert what of the tokens is its own: where it is chosen [T, k], and the weight that it has [T, 1]. */
function forEach(
  body: BodyBuilder,
  [weights, experts, ...others]: readonly string[],
  { biases }: ExpertKind,
  use: (
    expert: { readonly chosen: string; readonly weight: string; readonly biases: ExpertBiases | null },
    [gate, up, down]: readonly [gate: string, up: string, down: string],
  ) => void,
): void {
  const matrices = biases ? others.slice(0, -2) : others;
  for (let i = 0; 3 * i < matrices.length; i++) {
    const chosen = body.op("Equal", [experts!, body.scalar(i, "i32")]);
    const own = body.op("Where", [chosen, weights!, body.scalar(0)]);
    const weight = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
    use(
      { chosen, weight, biases: biases ? biasesOf(body, others.slice(-2), i) : null },
      matrices.slice(3 * i, 3 * i + 3) as [string, string, string],
    );
  }
}

export function expertMlpBody(body: BodyBuilder, [x, ...others]: readonly string[], kind: ExpertKind): string[] {
  const [add, mul] = [binary(body, "Add"), binary(body, "Mul")];
  let sum: string | null = null;
  forEach(body, others, kind, ({ weight, biases }, [gate, up, down]) => {
    const product = (a: string, b: string, bias: string | undefined) =>
      body.op("Gemm", [a, b, ...(bias ? [bias] : [])], { transB: 1 });
    const { hidden } = gated(body, kind, product(x!, gate, biases?.gate), product(x!, up, biases?.up));
    const y = mul(product(hidden, down, biases?.down), weight);
    sum = sum === null ? y : add(sum, y);
  });
  return [sum!];
}

export function expertMlpGradBody(body: BodyBuilder, [dy, x, ...others]: readonly string[], kind: ExpertKind): string[] {
  const [add, mul] = [binary(body, "Add"), binary(body, "Mul")];
  const dot = (a: string, b: string) => body.op("ReduceSum", [mul(a, b), body.ints([1])], { keepdims: 1 });
  const columnSum = (a: string) => body.op("ReduceSum", [a, body.ints([0])], { keepdims: 1 });
  const sums: string[] = [];
  const dmatrices: string[] = [];
  const dbiases: [both: string, down: string][] = [];
  forEach(body, others, kind, ({ chosen, weight, biases }, [gate, up, down]) => {
    const product = (a: string, b: string, bias: string | undefined) =>
      body.op("Gemm", [a, b, ...(bias ? [bias] : [])], { transB: 1 });
    const { hidden: h, byGate, byUp } = gated(body, kind, product(x!, gate, biases?.gate), product(x!, up, biases?.up));
    const r = body.op("Gemm", [dy!, down]);
    const dh = mul(r, weight);
    const [dg, du] = [mul(dh, byGate), mul(dh, byUp)];
    const dx = add(body.op("Gemm", [dg, gate]), body.op("Gemm", [du, up]));
    const ofMatrix = dot(h, r);
    const agreement = biases ? add(ofMatrix, dot(dy!, biases.down)) : ofMatrix;
    const dweights = body.op("Where", [chosen, agreement, body.scalar(0)]);
    [dx, dweights].forEach((part, i) => {
      sums[i] = sums[i] === undefined ? part : add(sums[i]!, part);
    });
    dmatrices.push(
      body.op("Gemm", [dg, x!], { transA: 1 }),
      body.op("Gemm", [du, x!], { transA: 1 }),
      body.op("Gemm", [dy!, mul(h, weight)], { transA: 1 }),
    );
    if (!biases) return;
    const pairs = [dg, du].map((each) => body.op("Reshape", [columnSum(each), body.ints([-1, 1])]));
    const both = body.op("Reshape", [body.op("Concat", pairs, { axis: 1 }), body.ints([1, -1])]);
    dbiases.push([both, columnSum(mul(dy!, weight))]);
  });
  const joined = kind.biases
    ? [0, 1].map((i) =>
        concat(
          body,
          dbiases.map((pair) => pair[i]!),
        ),
      )
    : [];
  return [...sums, ...dmatrices, ...joined];
}

function concat(body: BodyBuilder, parts: readonly string[]): string {
  return parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
}
