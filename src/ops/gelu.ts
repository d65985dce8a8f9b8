import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type GeluAttrs = {
  /** `none`: x Phi(x), Phi the normal distribution function; `tanh`: x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. */
  readonly approximate: "none" | "tanh";
};

const CUBIC = 0.044715;
const SQRT_2_OVER_PI = Math.sqrt(2 / Math.PI);

/** `Gelu(x)` (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415). */
export const Gelu = defineOp<GeluAttrs>({
  name: "Gelu",
  domain: "",
  cost: "memory",
  infer([x], { approximate }) {
    if (approximate !== "none" && approximate !== "tanh")
      throw new Error(`Gelu: approximate is none or tanh, got ${approximate}`);
    expectShape("Gelu", "a float tensor", areFloats(x), x);
    return [x!];
  },
  gradient: (ctx) => [ctx.builder.value(GeluGrad, [ctx.input(0), ctx.grad(0)!], ctx.attrs)],
  body: "standard",
  lower(e) {
    e.emit(Opcode.Gelu, [e.input(0), e.output(0)], [elements(e.type(e.output(0)).shape), Number(e.attrs.approximate === "tanh")]);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});

/**
 * `GeluGrad(x, dy) -> dx`. `none`: dx = dy (Phi(x) + x phi(x)), phi the normal density. `tanh`: with
 * t = tanh(u), u = sqrt(2 / pi) (x + 0.044715 x^3): dx = dy ((1 + t) / 2 + x (1 - t^2) / 2 du/dx).
 */
export const GeluGrad = defineOp<GeluAttrs>({
  name: "GeluGrad",
  domain: "remat",
  cost: "memory",
  infer([x, dy]) {
    expectShape("GeluGrad", "x and dy of one f32 type", !!x && !!dy && x.dtype === "f32" && sameType(x, dy), x, dy);
    return [x!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [x, dy], _types, { approximate }) {
    const mul = (a: string, b: string | number) => body.op("Mul", [a, typeof b === "string" ? b : body.scalar(b)]);
    const add = (a: string, b: string | number) => body.op("Add", [a, typeof b === "string" ? b : body.scalar(b)]);
    const square = mul(x!, x!);
    if (approximate === "none") {
      const cdf = mul(add(body.op("Erf", [mul(x!, Math.SQRT1_2)]), 1), 0.5);
      const density = mul(body.op("Exp", [mul(square, -0.5)]), 1 / Math.sqrt(2 * Math.PI));
      return [mul(dy!, add(cdf, mul(x!, density)))];
    }
    const t = body.op("Tanh", [mul(mul(x!, SQRT_2_OVER_PI), add(mul(square, CUBIC), 1))]);
    const slope = mul(add(mul(square, 3 * CUBIC), 1), SQRT_2_OVER_PI);
    const change = mul(mul(x!, slope), body.op("Sub", [body.scalar(1), mul(t, t)]));
    return [mul(mul(dy!, add(add(t, 1), change)), 0.5)];
  },
  lower(e) {
    const n = elements(e.type(e.output(0)).shape);
    e.emit(Opcode.GeluGrad, [e.input(0), e.input(1), e.output(0)], [n, Number(e.attrs.approximate === "tanh")]);
  },
  inPlace: [
    [0, 0],
    [0, 1],
  ],
});
