import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements, sameType } from "../graph/types.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/**
 * The operators that Muon (Jordan 2024, https://kellerjordan.github.io/posts/muon/) needs beside matrix products: its momentum, the start
 * of the Newton-Schulz iteration, and the step. `hyper` is f32[5]: learning rate, momentum, weight decay, gradient scale, and
 * the share of the buffer in the direction: 1, or with Nesterov's momentum `momentum`.
 */
const HYPER = 5;

const isHyper = (type: { readonly dtype: string; readonly shape: readonly number[] } | null | undefined): boolean =>
  type?.dtype === "f32" && elements(type.shape) === HYPER;

/**
 * `MuonMomentum(grad, b, hyper) -> direction, b'`, all but hyper f32 of one shape; b' usually in the place of b.
 *
 *     g = scale grad;  b' = momentum b + (1 - momentum) g;  direction = (1 - share) g + share b'
 */
export const MuonMomentum = defineOp<NoAttrs>({
  name: "MuonMomentum",
  domain: "remat",
  cost: "memory",
  infer([grad, b, hyper]) {
    const fits = grad?.dtype === "f32" && !!b && sameType(grad, b) && isHyper(hyper);
    expectShape("MuonMomentum", `grad, b of one f32 type and hyper f32[${HYPER}]`, fits, grad, b, hyper);
    return [grad!, grad!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [grad, b, hyper]) {
    const [momentum, scale, share] = [1, 3, 4].map((i) => body.op("Gather", [hyper!, body.ints([i])]));
    const mul = (x: string, y: string) => body.op("Mul", [x, y]);
    const oneMinus = (x: string) => body.op("Sub", [body.scalar(1), x]);
    const g = mul(grad!, scale!);
    const next = body.op("Add", [mul(b!, momentum!), mul(g, oneMinus(momentum!))]);
    return [body.op("Add", [mul(g, oneMinus(share!)), mul(next, share!)]), next];
  },
  lower(e) {
    const type = e.type(e.input(0)!);
    const outputs = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(type))));
    e.emit(Opcode.MuonMomentum, [...[0, 1, 2].map((i) => e.input(i)), ...outputs], [elements(type.shape)]);
  },
  inPlace: [[1, 1]],
});

/** `UnitNorm(x, squares) = x / max(sqrt(squares), least)`: f32, with f32[1] the sum of the squares of x. */
export const UnitNorm = defineOp<{ readonly epsilon: number }>({
  name: "UnitNorm",
  domain: "remat",
  cost: "memory",
  infer([x, squares]) {
    const fits = x?.dtype === "f32" && squares?.dtype === "f32" && elements(squares.shape) === 1;
    expectShape("UnitNorm", "an f32 tensor and its sum of squares f32[1]", fits, x, squares);
    return [x!];
  },
  gradient: notDifferentiable("a part of an optimizer update; it is no part of a loss"),
  body(body, [x, squares], _types, { epsilon }) {
    const norm = body.op("Sqrt", [squares!]);
    const least = body.scalar(Math.fround(epsilon));
    return [body.op("Div", [x!, body.op("Where", [body.op("GreaterOrEqual", [norm, least]), norm, least])])];
  },
  lower(e) {
    const n = elements(e.type(e.input(0)!).shape);
    e.emit(Opcode.UnitNorm, [e.input(0), e.input(1), e.output(0)], [n, { f32: e.attrs.epsilon }]);
  },
  inPlace: [[0, 0]],
});

/** `MuonStep(param, y, hyper) = (1 - lr decay) param - lr scale y`: param and y f32 of one shape, usually in the place of param. */
export const MuonStep = defineOp<{ readonly scale: number }>({
  name: "MuonStep",
  domain: "remat",
  cost: "memory",
  infer([param, y, hyper]) {
    const fits = param?.dtype === "f32" && !!y && sameType(param, y) && isHyper(hyper);
    expectShape("MuonStep", `param, y of one f32 type and hyper f32[${HYPER}]`, fits, param, y, hyper);
    return [param!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, y, hyper], _types, { scale }) {
    const [lr, decay] = [0, 2].map((i) => body.op("Gather", [hyper!, body.ints([i])]));
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const kept = mul(param!, body.op("Sub", [body.scalar(1), mul(lr!, decay!)]));
    return [body.op("Sub", [kept, mul(y!, mul(lr!, body.scalar(Math.fround(scale))))])];
  },
  lower(e) {
    const n = elements(e.type(e.input(0)!).shape);
    e.emit(Opcode.MuonStep, [...[0, 1, 2].map((i) => e.input(i)), e.output(0)], [n, { f32: e.attrs.scale }]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
