import { Opcode } from "../../assembly/opcodes.ts";
import { sameType } from "../graph/types.ts";
import { defineOp, expectShape, type KernelEmitter, notDifferentiable, type Operand } from "./types.ts";

type SinksAttrs = {
  readonly heads: number;
};

/** Gives attention and its log-sum-exp the sinks, in place. */
export function emitSinks(
  e: Pick<KernelEmitter, "emit">,
  { tokens, heads, dim }: { readonly tokens: number; readonly heads: number; readonly dim: number },
  [out, lse, sinks]: readonly [out: Operand, lse: Operand, sinks: Operand],
): void {
  e.emit(Opcode.AttentionSinks, [out, lse, sinks], [tokens, heads, dim]);
}

/**
 * `AttentionSinksGrad(out, dout, lse, sinks) -> dsinks`: the gradient of the sinks of `Attention`, -sum e^(sink - lse) (dout . out) over the tokens of
 * each head, with the results of attention as the sinks have made them. out and dout f32[T, heads * dim], lse f32[T, heads], sinks f32[heads].
 */
export const AttentionSinksGrad = defineOp<SinksAttrs>({
  name: "AttentionSinksGrad",
  domain: "remat",
  cost: "memory",
  infer([out, dOut, lse, sinks], { heads }) {
    const [tokens = 0, width = 0] = out?.shape ?? [];
    const is = (type: typeof out, shape: readonly number[]) => !!type && sameType(type, { dtype: "f32", shape });
    const fits = is(out, [tokens, width]) && is(dOut, [tokens, width]) && is(lse, [tokens, heads]) && is(sinks, [heads]);
    const expected = `out and dout f32[T, ${heads} * dim], lse f32[T, ${heads}], sinks f32[${heads}]`;
    expectShape("AttentionSinksGrad", expected, fits && width % heads === 0, out, dOut, lse, sinks);
    return [sinks!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [out, dOut, lse, sinks], [type], { heads }) {
    const [tokens, width] = type!.shape as [number, number];
    const split = (x: string) => body.op("Reshape", [x, body.ints([tokens, heads, width / heads])]);
    const dots = body.op("ReduceSum", [split(body.op("Mul", [out!, dOut!])), body.ints([2])], { keepdims: 0 });
    const shares = body.op("Exp", [body.op("Sub", [sinks!, lse!])]);
    return [body.op("Neg", [body.op("ReduceSum", [body.op("Mul", [shares, dots]), body.ints([0])], { keepdims: 0 })])];
  },
  lower(e) {
    const { heads } = e.attrs;
    const [tokens, width] = e.type(e.input(0)!).shape as [number, number];
    const operands = [e.input(0), e.input(1), e.input(2), e.input(3), e.output(0)];
    e.emit(Opcode.AttentionSinksGrad, operands, [tokens, heads, width / heads]);
  },
});
