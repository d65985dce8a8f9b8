import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Entries of the `hyper` input, in order. */
const HYPER = 5;

/**
 * `Lion(param, grad, m, hyper) -> param', m'`: one update (Chen et al. 2023, https://arxiv.org/abs/2302.06675, algorithm 2);
 * all f32 of one shape, usually in place. `hyper` is f32[5]: learning rate, beta1, beta2, weight decay, gradient scale.
 *
 *     g = scale grad;  param' = (1 - lr decay) param - lr sign(beta1 m + (1 - beta1) g);  m' = beta2 m + (1 - beta2) g
 */
export const Lion = defineOp<NoAttrs>({
  name: "Lion",
  domain: "remat",
  cost: "memory",
  infer([param, grad, m, hyper]) {
    const states = [grad, m].every((type) => !!type && !!param && sameType(type, param));
    const fits = param?.dtype === "f32" && states && hyper?.dtype === "f32" && elements(hyper.shape) === HYPER;
    expectShape("Lion", `param, grad, m of one f32 type and hyper f32[${HYPER}]`, fits, param, grad, m, hyper);
    return [param!, param!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, grad, m, hyper]) {
    const [lr, beta1, beta2, decay, scale] = Array.from({ length: HYPER }, (_, i) => body.op("Gather", [hyper!, body.ints([i])]));
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const oneMinus = (a: string) => body.op("Sub", [body.scalar(1), a]);
    const g = mul(grad!, scale!);
    const mean = (m: string, beta: string) => body.op("Add", [mul(m, beta), mul(g, oneMinus(beta))]);
    const direction = mean(m!, beta1!);
    // m' may be written over m: it is computed from a copy that is made when the direction has read m.
    const copy = body.op("Where", [body.op("LessOrEqual", [direction, direction]), m!, m!]);
    const zero = body.scalar(0);
    const notAbove = body.op("Where", [body.op("GreaterOrEqual", [direction, zero]), zero, body.op("Neg", [lr!])]);
    const step = body.op("Where", [body.op("LessOrEqual", [direction, zero]), notAbove, lr!]);
    return [body.op("Sub", [mul(param!, oneMinus(mul(lr!, decay!))), step]), mean(copy, beta2!)];
  },
  lower(e) {
    const type = e.type(e.input(0)!);
    // The kernel writes both.
    const outputs = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(type))));
    e.emit(Opcode.Lion, [...[0, 1, 2, 3].map((i) => e.input(i)), ...outputs], [elements(type.shape)]);
  },
  inPlace: [
    [0, 0],
    [1, 2],
  ],
});
