import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Entries of the `hyper` input, in order. */
const HYPER = 6;

/**
 * `Sgd(param, grad, b, hyper) -> param', b'`: one update of gradient descent with momentum as torch.optim.SGD computes it
 * (dampening 0); all f32 of one shape, usually in place. `hyper` is f32[6]: learning rate, momentum, weight decay, gradient
 * scale, and the shares of the gradient and of the buffer in the step: 0 and 1, or with Nesterov's momentum 1 and `momentum`.
 *
 *     g = scale grad + decay param;  b' = momentum b + g;  param' = param - lr (shareG g + shareB b')
 */
export const Sgd = defineOp<NoAttrs>({
  name: "Sgd",
  domain: "remat",
  cost: "memory",
  infer([param, grad, b, hyper]) {
    const states = [grad, b].every((type) => !!type && !!param && sameType(type, param));
    const fits = param?.dtype === "f32" && states && hyper?.dtype === "f32" && elements(hyper.shape) === HYPER;
    expectShape("Sgd", `param, grad, b of one f32 type and hyper f32[${HYPER}]`, fits, param, grad, b, hyper);
    return [param!, param!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, grad, b, hyper]) {
    const [lr, momentum, decay, scale, shareG, shareB] = Array.from({ length: HYPER }, (_, i) =>
      body.op("Gather", [hyper!, body.ints([i])]),
    );
    const mul = (x: string, y: string) => body.op("Mul", [x, y]);
    const add = (x: string, y: string) => body.op("Add", [x, y]);
    const g = add(mul(grad!, scale!), mul(param!, decay!));
    const next = add(mul(b!, momentum!), g);
    const step = add(mul(g, shareG!), mul(next, shareB!));
    return [body.op("Sub", [param!, mul(step, lr!)]), next];
  },
  lower(e) {
    const type = e.type(e.input(0)!);
    // The kernel writes both.
    const outputs = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(type))));
    e.emit(Opcode.Sgd, [...[0, 1, 2, 3].map((i) => e.input(i)), ...outputs], [elements(type.shape)]);
  },
  inPlace: [
    [0, 0],
    [1, 2],
  ],
});
