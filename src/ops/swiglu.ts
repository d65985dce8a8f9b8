import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** `SwiGLU(gate, up) = silu(gate) * up`, all of one type (Shazeer 2020, https://arxiv.org/abs/2002.05202). */
export const SwiGLU = defineOp<NoAttrs>({
  name: "SwiGLU",
  domain: "remat",
  cost: "memory",
  infer([gate, up]) {
    expectShape("SwiGLU", "gate and up of one float type", areFloats(gate, up) && sameType(gate!, up!), gate, up);
    return [gate!];
  },
  gradient(ctx) {
    const [gate, up] = ctx.builder.node(SwiGLUGrad, [ctx.input(0), ctx.input(1), ctx.grad(0)!], {});
    return [gate!, up!];
  },
  body(body, [gate, up]) {
    const silu = body.op("Mul", [gate!, body.op("Sigmoid", [gate!])]);
    return [body.op("Mul", [silu, up!])];
  },
  lower(e) {
    e.emit(Opcode.SwiGLU, [e.input(0), e.input(1), e.output(0)], [elements(e.type(e.output(0)).shape)]);
  },
  narrow: [0, 1],
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});

/**
 * `SwiGLUGrad(gate, up, dy) -> dgate, dup`. With s = sigmoid(gate):
 * dup = dy * gate * s, dgate = dy * up * s * (1 + gate * (1 - s)).
 */
export const SwiGLUGrad = defineOp<NoAttrs>({
  name: "SwiGLUGrad",
  domain: "remat",
  cost: "memory",
  infer([gate, up, dy]) {
    const fits = areFloats(gate, up, dy) && sameType(gate!, up!) && sameType(gate!, dy!);
    expectShape("SwiGLUGrad", "gate, up and dy of one float type", fits, gate, up, dy);
    return [gate!, up!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [gate, up, dy], [type]) {
    const s = body.op("Sigmoid", [gate!]);
    const silu = body.op("Mul", [gate!, s]);
    const dsilu = body.op("Mul", [s, body.op("Add", [body.scalar(1, type!.dtype), body.op("Sub", [gate!, silu])])]);
    return [body.op("Mul", [body.op("Mul", [dy!, up!]), dsilu]), body.op("Mul", [dy!, silu])];
  },
  lower(e) {
    const n = elements(e.type(e.output(0)).shape);
    e.emit(Opcode.SwiGLUGrad, [e.input(0), e.input(1), e.input(2), e.output(0), e.output(1)], [n]);
  },
  narrow: [0, 1, 2],
  inPlace: [
    [0, 0],
    [1, 1],
    [0, 2],
    [1, 2],
  ],
});
