import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Entries of the `hyper` input, in order. */
const HYPER = 8;

/**
 * `AdamW(param, grad, m, v, hyper) -> param', m', v'`: one update (Loshchilov and Hutter 2019,
 * https://arxiv.org/abs/1711.05101), as PyTorch computes it; all f32 of one shape, usually in place. `hyper` is f32[8]:
 * learning rate, beta1, beta2, epsilon, weight decay, 1 - beta1^t, 1 - beta2^t, gradient scale (for clipping). The powers
 * are those of the betas rounded to f32: then the corrected moments are weighted means exactly.
 *
 *     g = scale grad;  m' = beta1 m + (1 - beta1) g;  v' = beta2 v + (1 - beta2) g^2
 *     param' = (1 - lr decay) param - lr / (1 - beta1^t) m' / (sqrt(v') / sqrt(1 - beta2^t) + epsilon)
 */
export const AdamW = defineOp<NoAttrs>({
  name: "AdamW",
  domain: "remat",
  cost: "memory",
  infer([param, grad, m, v, hyper]) {
    const states = [grad, m, v].every((type) => !!type && !!param && sameType(type, param));
    const fits = param?.dtype === "f32" && states && hyper?.dtype === "f32" && elements(hyper.shape) === HYPER;
    expectShape("AdamW", `param, grad, m, v of one f32 type and hyper f32[${HYPER}]`, fits, param, grad, m, v, hyper);
    return [param!, param!, param!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, grad, m, v, hyper]) {
    const [lr, beta1, beta2, epsilon, decay, correction1, correction2, scale] = Array.from({ length: HYPER }, (_, i) =>
      body.op("Gather", [hyper!, body.ints([i])]),
    );
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const add = (a: string, b: string) => body.op("Add", [a, b]);
    const div = (a: string, b: string) => body.op("Div", [a, b]);
    const oneMinus = (a: string) => body.op("Sub", [body.scalar(1), a]);
    const sqrt = (a: string) => body.op("Sqrt", [a]);
    const g = mul(grad!, scale!);
    const newM = add(mul(m!, beta1!), mul(g, oneMinus(beta1!)));
    const newV = add(mul(v!, beta2!), mul(mul(g, g), oneMinus(beta2!)));
    const root = add(div(sqrt(newV), sqrt(correction2!)), epsilon!);
    const step = div(mul(newM, div(lr!, correction1!)), root);
    return [body.op("Sub", [mul(param!, oneMinus(mul(lr!, decay!))), step]), newM, newV];
  },
  lower(e) {
    const inputs = [0, 1, 2, 3, 4].map((i) => e.input(i));
    const type = e.type(e.input(0)!);
    // The kernel writes all three.
    const outputs = [0, 1, 2].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(type))));
    e.emit(Opcode.AdamW, [...inputs, ...outputs], [elements(type.shape)]);
  },
  inPlace: [
    [0, 0],
    [1, 2],
    [2, 3],
  ],
});
