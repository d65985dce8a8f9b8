import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import { HALF_CODE, isFloat } from "./half.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type CastAttrs = {
  /** The ONNX number of the element type: see `CAST_TO`. */
  readonly to: number;
};

/** ONNX's numbers (`TensorProto.DataType`) of the types that `Cast` converts between. */
export const CAST_TO: Readonly<Record<FloatType, number>> = { f32: 1, f16: 10, bf16: 16 };

const target = (to: number): FloatType | undefined =>
  (Object.keys(CAST_TO) as FloatType[]).find((dtype) => CAST_TO[dtype] === to);

/**
 * `Cast(x)` to another of f32, bf16 and f16. Widening is exact, narrowing rounds to nearest even, and what is too large
 * becomes infinity. The gradient is cast back. A kernel that reads half types itself (`halfInputs`) spares the Cast.
 */
export const Cast: OpDef<CastAttrs> = defineOp({
  name: "Cast",
  domain: "",
  cost: "memory",
  infer([x], { to }) {
    const dtype = target(to);
    expectShape("Cast", "a float tensor and `to` = 1 (f32), 10 (f16) or 16 (bf16)", !!x && isFloat(x.dtype) && !!dtype, x);
    return [{ dtype: dtype!, shape: x!.shape }];
  },
  gradient(ctx) {
    const from = ctx.builder.type(ctx.input(0)).dtype as FloatType;
    return [ctx.needs(0) ? ctx.builder.value(Cast, [ctx.grad(0)!], { to: CAST_TO[from] }) : null];
  },
  body: "standard",
  lower(e) {
    const [x, y] = [e.input(0)!, e.output(0)];
    const code = (value: string) => HALF_CODE[e.type(value).dtype as FloatType];
    e.emit(Opcode.CastHalf, [x, y], [elements(e.type(y).shape), code(x), code(y)]);
  },
});
