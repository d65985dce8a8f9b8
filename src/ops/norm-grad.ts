import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { expectShape, type KernelEmitter, notDifferentiable } from "./types.ts";

/** Attributes of the norms over rows, and of their gradients. */
export type NormAttrs = {
  /** Rows are normalised: -1. */
  readonly axis: number;
  readonly epsilon: number;
};

type Operand = TensorType | null | undefined;

/** @throws {Error} anything but x [rows, columns], scale and perhaps a bias [columns] of one float type */
export function expectRows(op: string, inputs: readonly Operand[], axis: number): void {
  const [x, scale, bias] = inputs;
  if (axis !== -1) throw new Error(`${op}: axis must be -1, got ${axis}`);
  const rows = areFloats(x, scale) && x!.shape.length === 2;
  const fits = rows && scale!.shape.length === 1 && scale!.shape[0] === x!.shape[1] && (!bias || sameType(bias, scale!));
  const wanted = inputs.length > 2 ? "x [rows, columns], scale and bias" : "x [rows, columns] and scale";
  expectShape(op, `${wanted} [columns] of one float type`, fits, ...inputs);
}

/** Rows whose gradients of scale are summed by one thread; the sums of the blocks are then added in order. */
const BLOCK_ROWS = 64;

/** The part of `Norm(dy, x, scale, sum?) -> dx, dscale` that does not depend on which norm it is the gradient of. */
export function normGrad(name: string, opcode: Opcode) {
  return {
    cost: "memory",
    infer([dy, x, scale, sum]: readonly Operand[], { axis }: NormAttrs): TensorType[] {
      expectRows(name, [x, scale], axis);
      const fits = x?.dtype === "f32" && !!dy && sameType(dy, x) && (!sum || sameType(sum, x));
      expectShape(name, "x f32, dy and sum of its type", fits, dy, x, sum);
      return [x!, scale!];
    },
    gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
    lower(e: KernelEmitter<NormAttrs>): void {
      const [rows, columns] = e.type(e.input(1)!).shape as [number, number];
      const blocks = Math.ceil(rows / BLOCK_ROWS);
      const partial = e.used(1) ? e.scratch(blocks * columns * 4) : null;
      const dx = e.used(0) ? e.output(0) : null;
      const scalars = [rows, columns, { f32: e.attrs.epsilon }, BLOCK_ROWS];
      e.emit(opcode, [e.input(0), e.input(1), e.input(2), e.input(3), dx, partial], scalars);
      if (partial) e.emit(Opcode.ColumnSum, [partial, null, e.output(1)], [blocks, columns]);
    },
    inPlace: [
      [0, 0],
      [0, 1],
    ],
    accumulates: { output: 0, input: 3 },
  } as const;
}
