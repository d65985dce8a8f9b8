import { Opcode } from "../../assembly/opcodes.ts";
import type { TensorType } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, notDifferentiable, type Operand } from "./types.ts";

type RouteAttrs = {
  /** Experts of a token. */
  readonly k: number;
  /** 1: the weights of a token's experts add up to 1; 0: they are those of a softmax over all experts. */
  readonly normalise: 0 | 1;
};

/**
 * `RouteTokens(logits) -> weights, experts`: the k experts of the greatest logits of each token, in falling order (of equal ones the first counts), and
 * their shares of the token. logits f32[T, E], weights f32[T, k], experts i32[T, k]. With p the softmax of all logits, the weights are p of the
 * chosen, or, with `normalise`, p divided by its sum over them, which is the softmax of their logits.
 */
export const RouteTokens = defineOp<RouteAttrs>({
  name: "RouteTokens",
  domain: "remat",
  cost: "memory",
  infer([logits], { k }) {
    expectShape("RouteTokens", `logits f32[T, E] of at least ${k} experts`, isRouted(logits, k), logits);
    const shape = [logits!.shape[0]!, k];
    return [
      { dtype: "f32", shape },
      { dtype: "i32", shape },
    ];
  },
  gradient(ctx) {
    const dweights = ctx.grad(0);
    if (dweights === null) return [null];
    return [ctx.builder.value(RouteTokensGrad, [ctx.input(0), ctx.output(0), ctx.output(1), dweights], ctx.attrs)];
  },
  body(body, [logits], _, { k, normalise }) {
    const [values, places] = body.ops("TopK", [logits!, body.ints([k])], { axis: 1, largest: 1, sorted: 1 }, 2);
    const weights = normalise
      ? body.op("Softmax", [values!], { axis: 1 })
      : body.op("GatherElements", [body.op("Softmax", [logits!], { axis: 1 }), places!], { axis: 1 });
    return [weights, body.op("Cast", [places!], { to: "i32" })];
  },
  lower(e) {
    const [tokens, experts] = e.type(e.input(0)!).shape as [number, number];
    const { k, normalise } = e.attrs;
    const [weights, chosen] = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(4 * tokens * k))) as [Operand, Operand];
    e.emit(Opcode.RouteTokens, [e.input(0), weights, chosen], [tokens, experts, k, normalise]);
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
  body(body, [logits, weights, experts, dweights], [type], { normalise }) {
    const own = body.op("Mul", [weights!, dweights!]);
    const c = body.op("ReduceSum", [own, body.ints([1])], { keepdims: 1 });
    const places = body.op("Cast", [experts!], { to: "i64" });
    const zeros = body.op("ConstantOfShape", [body.ints(type!.shape)]);
    if (normalise) {
      const change = body.op("Sub", [own, body.op("Mul", [weights!, c])]);
      return [scattered(body, zeros, places, change)];
    }
    const all = body.op("Mul", [body.op("Softmax", [logits!], { axis: 1 }), c]);
    return [body.op("Sub", [scattered(body, zeros, places, own), all])];
  },
  lower(e) {
    const [tokens, experts] = e.type(e.input(0)!).shape as [number, number];
    const { k, normalise } = e.attrs;
    const operands = [e.input(0), e.input(1), e.input(2), e.input(3), e.output(0)];
    e.emit(Opcode.RouteTokensGrad, operands, [tokens, experts, k, normalise]);
  },
});

const scattered = (body: BodyBuilder, zeros: string, places: string, values: string): string =>
  body.op("ScatterElements", [zeros, places, values], { axis: 1 });

function isRouted(logits: TensorType | null | undefined, k: number): boolean {
  return logits?.dtype === "f32" && logits.shape.length === 2 && Number.isInteger(k) && k > 0 && k <= logits.shape[1]!;
}
