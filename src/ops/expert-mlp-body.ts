import { adapterInputs, type ExpertActivation, ranksOf, type ExpertRanks } from "./expert-adapters.ts";
import type { BodyBuilder } from "./types.ts";

/**
 * A mixture of experts and its gradient in standard operators. Shapes are static, so every expert computes all tokens, and its result has the
 * weight 0 where it was not chosen.
 */

const binary = (body: BodyBuilder, name: string) => (a: string, b: string) => body.op(name, [a, b]);

/** The parts of an expert beside its matrices: see `ExpertMlp`. */
export interface ExpertKind extends ExpertRanks {
  readonly activation: ExpertActivation;
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
  if (activation === "geglu") {
    // gelu(g) = (1 + t) g / 2, t = tanh(sqrt(2 / pi) (g + 0.044715 g^3)).
    const square = mul(g, g);
    const scaled = (x: string, factor: number) => mul(x, body.scalar(factor));
    const t = body.op("Tanh", [mul(scaled(g, Math.sqrt(2 / Math.PI)), add(scaled(square, 0.044715), one))]);
    const half = scaled(add(t, one), 0.5);
    const slope = scaled(add(scaled(square, 3 * 0.044715), one), Math.sqrt(2 / Math.PI) / 2);
    const derivative = add(half, mul(mul(g, slope), sub(one, mul(t, t))));
    const gelu = mul(g, half);
    return { hidden: mul(gelu, u), byGate: mul(u, derivative), byUp: gelu };
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

/** One expert's pair of a low-rank update: A [rank, in], and B [out, rank], of gate and up its two halves. */
interface BodyPair {
  readonly a: string;
  readonly b: string;
  readonly halves: readonly [gate: string, up: string];
  readonly scale: string;
}

function bodyPair(
  body: BodyBuilder,
  [a, b]: readonly string[],
  expert: number,
  {
    rank,
    scale,
    experts,
    byTurns,
  }: { readonly rank: number; readonly scale: number; readonly experts: number; readonly byTurns: boolean },
): BodyPair {
  const places = Array.from({ length: rank }, (_, i) => i);
  const own = body.op("Gather", [b!, body.ints(places.map((i) => i * experts + expert))], { axis: 1 });
  const pairs = byTurns ? body.op("Reshape", [own, body.ints([-1, 2, rank])]) : own;
  const split = body.ops("Split", [pairs], { axis: byTurns ? 1 : 0, num_outputs: 2 }, 2);
  const halves = (byTurns ? split.map((half) => body.op("Reshape", [half, body.ints([-1, rank])])) : split) as [string, string];
  return {
    a: body.op("Gather", [a!, body.ints(places.map((i) => expert * rank + i))], { axis: 0 }),
    b: own,
    halves,
    scale: body.scalar(scale),
  };
}

/** For each expert what of the tokens is its own: where it is chosen [T, k], and the weight that it has [T, 1]. */
function forEach(
  body: BodyBuilder,
  [weights, experts, ...others]: readonly string[],
  kind: ExpertKind,
  use: (
    expert: {
      readonly chosen: string;
      readonly weight: string;
      readonly biases: ExpertBiases | null;
      readonly gateUp: BodyPair | null;
      readonly down: BodyPair | null;
    },
    [gate, up, down]: readonly [gate: string, up: string, down: string],
  ) => void,
): void {
  const { biases } = kind;
  const { rank, scale, downRank, downScale } = ranksOf(kind);
  const count = others.length - adapterInputs(kind);
  const matrices = others.slice(0, biases ? count - 2 : count);
  const total = matrices.length / 3;
  const byTurns = kind.activation === "clamped";
  const down = { rank: downRank, scale: downScale, experts: total, byTurns: false };
  for (let i = 0; 3 * i < matrices.length; i++) {
    const chosen = body.op("Equal", [experts!, body.scalar(i, "i32")]);
    const own = body.op("Where", [chosen, weights!, body.scalar(0)]);
    const weight = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
    use(
      {
        chosen,
        weight,
        biases: biases ? biasesOf(body, others.slice(count - 2, count), i) : null,
        gateUp: rank > 0 ? bodyPair(body, others.slice(count), i, { rank, scale, experts: total, byTurns }) : null,
        down: downRank > 0 ? bodyPair(body, others.slice(-2), i, down) : null,
      },
      matrices.slice(3 * i, 3 * i + 3) as [string, string, string],
    );
  }
}

/** x W^T, plus a bias, plus scale x A^T B^T of a pair, and x A^T. */
function layer(
  body: BodyBuilder,
  x: string,
  weight: string,
  bias: string | undefined,
  pair: { readonly low: string; readonly b: string; readonly scale: string } | null,
): string {
  const y = body.op("Gemm", [x, weight, ...(bias ? [bias] : [])], { transB: 1 });
  if (pair === null) return y;
  const update = body.op("Gemm", [pair.low, pair.b], { transB: 1 });
  return body.op("Add", [y, body.op("Mul", [update, pair.scale])]);
}

/** Gate and up of an expert, and x A^T. */
function gateAndUp(
  body: BodyBuilder,
  x: string,
  [gate, up]: readonly [gate: string, up: string, down: string],
  biases: ExpertBiases | null,
  pair: BodyPair | null,
): [g: string, u: string, low: string | null] {
  const low = pair && body.op("Gemm", [x, pair.a], { transB: 1 });
  const of = (i: 0 | 1) => (pair === null ? null : { low: low!, b: pair.halves[i], scale: pair.scale });
  return [layer(body, x, gate, biases?.gate, of(0)), layer(body, x, up, biases?.up, of(1)), low];
}

export function expertMlpBody(body: BodyBuilder, [x, ...others]: readonly string[], kind: ExpertKind): string[] {
  const [add, mul] = [binary(body, "Add"), binary(body, "Mul")];
  let sum: string | null = null;
  forEach(body, others, kind, ({ weight, biases, gateUp, down: pair }, matrices) => {
    const [g, u] = gateAndUp(body, x!, matrices, biases, gateUp);
    const { hidden } = gated(body, kind, g, u);
    const low = pair && { ...pair, low: body.op("Gemm", [hidden, pair.a], { transB: 1 }) };
    const y = mul(layer(body, hidden, matrices[2], biases?.down, low), weight);
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
  const pairs: { readonly gateUp: string[][]; readonly down: string[][] } = { gateUp: [], down: [] };
  forEach(body, others, kind, ({ chosen, weight, biases, gateUp, down: pair }, matrices) => {
    const [gate, up, down] = matrices;
    const [g, u, low] = gateAndUp(body, x!, matrices, biases, gateUp);
    const { hidden: h, byGate, byUp } = gated(body, kind, g, u);
    const across = (a: string, b: string) => body.op("Gemm", [a, b], { transA: 1 });
    const dlow = pair && mul(body.op("Gemm", [dy!, pair.b]), pair.scale);
    const ofMatrixDown = body.op("Gemm", [dy!, down]);
    const r = pair ? add(ofMatrixDown, body.op("Gemm", [dlow!, pair.a])) : ofMatrixDown;
    const dh = mul(r, weight);
    const [dg, du] = [mul(dh, byGate), mul(dh, byUp)];
    const ofMatrices = add(body.op("Gemm", [dg, gate]), body.op("Gemm", [du, up]));
    let dx = ofMatrices;
    if (gateUp) {
      const [ofGate, ofUp] = gateUp.halves;
      const both = mul(add(body.op("Gemm", [dg, ofGate]), body.op("Gemm", [du, ofUp])), gateUp.scale);
      dx = add(ofMatrices, body.op("Gemm", [both, gateUp.a]));
      const scaled = mul(low!, gateUp.scale);
      const halves: [string, string] = [across(dg, scaled), across(du, scaled)];
      pairs.gateUp.push([across(both, x!), joinedHalves(body, halves, kind)]);
    }
    const weighted = mul(h, weight);
    if (pair) {
      const scaled = mul(body.op("Gemm", [weighted, pair.a], { transB: 1 }), pair.scale);
      pairs.down.push([across(dlow!, weighted), across(dy!, scaled)]);
    }
    const ofMatrix = dot(h, r);
    const agreement = biases ? add(ofMatrix, dot(dy!, biases.down)) : ofMatrix;
    const dweights = body.op("Where", [chosen, agreement, body.scalar(0)]);
    [dx, dweights].forEach((part, i) => {
      sums[i] = sums[i] === undefined ? part : add(sums[i]!, part);
    });
    dmatrices.push(across(dg, x!), across(du, x!), across(dy!, weighted));
    if (!biases) return;
    const columns = [dg, du].map((each) => body.op("Reshape", [columnSum(each), body.ints([-1, 1])]));
    const both = body.op("Reshape", [body.op("Concat", columns, { axis: 1 }), body.ints([1, -1])]);
    dbiases.push([both, columnSum(mul(dy!, weight))]);
  });
  const joined = kind.biases
    ? [0, 1].map((i) =>
        concat(
          body,
          dbiases.map((both) => both[i]!),
        ),
      )
    : [];
  const dpairs = [pairs.gateUp, pairs.down].filter((each) => each.length > 0);
  return [...sums, ...dmatrices, ...joined, ...dpairs.flatMap((each) => joinedPairs(body, each))];
}

/** The gradient of the B of gate and up, of those of its halves [I, rank]. */
function joinedHalves(body: BodyBuilder, halves: readonly [gate: string, up: string], kind: ExpertKind): string {
  if (kind.activation !== "clamped") return body.op("Concat", [...halves], { axis: 0 });
  const pairs = halves.map((half) => body.op("Unsqueeze", [half, body.ints([1])]));
  return body.op("Reshape", [body.op("Concat", pairs, { axis: 1 }), body.ints([-1, ranksOf(kind).rank])]);
}

/** The gradients of A and B of all experts, of those of each. */
function joinedPairs(body: BodyBuilder, pairs: readonly string[][]): string[] {
  const a = concat(
    body,
    pairs.map(([own]) => own!),
  );
  // B has each expert's columns in turn: [out, rank, E].
  const columns = pairs.map(([, own]) => body.op("Unsqueeze", [own!, body.ints([2])]));
  const b = columns.length === 1 ? columns[0]! : body.op("Concat", columns, { axis: 2 });
  return [a, body.op("Reshape", [b, body.ints([0, -1])])];
}

function concat(body: BodyBuilder, parts: readonly string[]): string {
  return parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis: 0 });
}
