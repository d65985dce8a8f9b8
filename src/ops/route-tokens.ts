import { Opcode } from "../../assembly/opcodes.ts";
import type { TensorType } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, notDifferentiable, type Operand } from "./types.ts";

type RouteAttrs = {
  /** Experts of a token. */
  readonly k: number;
  /** 1: the weights of a token's experts add up to 1; 0: they are their scores. */
  readonly normalise: 0 | 1;
  /** What the scores of experts are of their logits: a softmax over all of them, or the sigmoid of each. */
  readonly score: "softmax" | "sigmoid";
  /** What is added to the sum that sigmoids are divided by. */
  readonly epsilon: number;
};

/** The kernels' flags. */
const flags = ({ normalise, score }: RouteAttrs): number => normalise + (score === "sigmoid" ? 2 : 0);

/**
 * `RouteTokens(logits, biases?) -> weights, experts`: the k experts of the greatest scores of each token, in falling order (of equal ones the first
 * counts), and their shares of the token. logits f32[T, E], biases f32[E] or none, weights f32[T, k], experts i32[T, k]. With p the scores, the
 * weights are p of the chosen, or, with `normalise`, p divided by its sum over them (and epsilon, where scores are sigmoids), which of a softmax is the
 * softmax of their logits. Biases are added to sigmoids when the greatest are chosen, and are no part of the weights: they have no gradient.
 */
export const RouteTokens = defineOp<RouteAttrs>({
  name: "RouteTokens",
  domain: "remat",
  cost: "memory",
  infer([logits, biases], { k, score }) {
    const fits = isRouted(logits, k) && areBiases(biases, logits, score);
    expectShape("RouteTokens", `logits f32[T, E] of at least ${k} experts, and biases f32[E] of sigmoids alone`, fits, logits);
    const shape = [logits!.shape[0]!, k];
    return [
      { dtype: "f32", shape },
      { dtype: "i32", shape },
    ];
  },
  gradient(ctx) {
    const dweights = ctx.grad(0);
    const none = ctx.node.inputs.length > 1 ? [null] : [];
    if (dweights === null) return [null, ...none];
    return [ctx.builder.value(RouteTokensGrad, [ctx.input(0), ctx.output(0), ctx.output(1), dweights], ctx.attrs), ...none];
  },
  body(body, [logits, biases], _, { k, normalise, score, epsilon }) {
    const scores = score === "sigmoid" ? body.op("Sigmoid", [logits!]) : logits!;
    const choice = biases ? body.op("Add", [scores, biases]) : scores;
    const [values, places] = body.ops("TopK", [choice, body.ints([k])], { axis: 1, largest: 1, sorted: 1 }, 2);
    const chosen = (table: string) => body.op("GatherElements", [table, places!], { axis: 1 });
    const weights = (): string => {
      if (score === "softmax")
        return normalise ? body.op("Softmax", [values!], { axis: 1 }) : chosen(body.op("Softmax", [logits!], { axis: 1 }));
      const own = chosen(scores);
      const sum = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
      return normalise ? body.op("Div", [own, body.op("Add", [sum, body.scalar(epsilon)])]) : own;
    };
    return [weights(), body.op("Cast", [places!], { to: "i32" })];
  },
  lower(e) {
    const [tokens, experts] = e.type(e.input(0)!).shape as [number, number];
    const { k, epsilon } = e.attrs;
    const [weights, chosen] = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(4 * tokens * k))) as [Operand, Operand];
    const biases = e.node.inputs.length > 1 ? e.input(1) : null;
    e.emit(Opcode.RouteTokens, [e.input(0), biases, weights, chosen], [tokens, experts, k, flags(e.attrs), { f32: epsilon }]);
  },
});

/** `RouteTokensGrad(logits, weights, experts, dweights) -> dlogits`, of what `RouteTokens` gives of the logits. */
export const RouteTokensGrad = defineOp<RouteAttrs>({
  name: "RouteTokensGrad",
  domain: "remat",
  cost: "memory",
  infer([logits, weights, experts, dweights], { k }) {
    const isSlots = (type: TensorType | null | undefined, dtype: "f32" | "i32") =>
      type?.dtype === dtype && type.shape.join() === [logits?.shape[0], k].join();
    const fits = isRouted(logits, k) && isSlots(weights, "f32") && isSlots(experts, "i32") && isSlots(dweights, "f32");
    expectShape(
      "RouteTokensGrad",
      `logits f32[T, E], weights f32[T, ${k}], experts i32[T, ${k}], dweights f32[T, ${k}]`,
      fits,
      logits,
      weights,
      experts,
      dweights,
    );
    return [logits!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [logits, weights, experts, dweights], [type], { normalise, score }) {
    const own = body.op("Mul", [weights!, dweights!]);
    const c = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
    const places = body.op("Cast", [experts!], { to: "i64" });
    const zeros = body.op("ConstantOfShape", [body.ints(type!.shape)]);
    const change = normalise ? body.op("Sub", [own, body.op("Mul", [weights!, c])]) : own;
    if (score === "sigmoid") {
      const rest = body.op("Sigmoid", [body.op("Neg", [body.op("GatherElements", [logits!, places], { axis: 1 })])]);
      return [scattered(body, zeros, places, body.op("Mul", [rest, change]))];
    }
    if (normalise) return [scattered(body, zeros, places, change)];
    const all = body.op("Mul", [body.op("Softmax", [logits!], { axis: 1 }), c]);
    return [body.op("Sub", [scattered(body, zeros, places, own), all])];
  },
  lower(e) {
    const [tokens, experts] = e.type(e.input(0)!).shape as [number, number];
    const operands = [e.input(0), e.input(1), e.input(2), e.input(3), e.output(0)];
    e.emit(Opcode.RouteTokensGrad, operands, [tokens, experts, e.attrs.k, flags(e.attrs)]);
  },
});

const scattered = (body: BodyBuilder, zeros: string, places: string, values: string): string =>
  body.op("ScatterElements", [zeros, places, values], { axis: 1 });

function isRouted(logits: TensorType | null | undefined, k: number): boolean {
  return logits?.dtype === "f32" && logits.shape.length === 2 && Number.isInteger(k) && k > 0 && k <= logits.shape[1]!;
}

function areBiases(
  biases: TensorType | null | undefined,
  logits: TensorType | null | undefined,
  score: RouteAttrs["score"],
): boolean {
  if (biases === undefined || biases === null) return true;
  return score === "sigmoid" && biases.dtype === "f32" && biases.shape.join() === `${logits?.shape[1]}`;
}
