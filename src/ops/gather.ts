import { Opcode } from "../../assembly/opcodes.ts";
import { DTYPE_BYTES } from "../base/dtype.ts";
import { formatOfCodes } from "./dequantize.ts";
import { EmbeddingGrad } from "./embedding-grad.ts";
import { areFloats, HALF_CODE, isFloat } from "./half.ts";
import { defineOp, expectShape, type NoAttrs } from "./types.ts";

/**
 * `Gather(table, ids)`: rows of an embedding table. table [vocab, columns], ids i32[tokens] -> [tokens, columns] of the
 * table's float type (f32 for the kernel, which reads a bf16 or f16 table through a Cast), or of codes of a quantised table as they are. Ids lie in 0..vocab-1; the kernel reads row 0 for any other, so that it never leaves the table.
 */
export const Gather = defineOp<NoAttrs>({
  name: "Gather",
  domain: "",
  cost: "memory",
  infer([table, ids]) {
    const fits =
      (areFloats(table) || (!!table && formatOfCodes(table) !== null)) &&
      table!.shape.length === 2 &&
      ids?.dtype === "i32" &&
      ids.shape.length === 1;
    expectShape("Gather", "a float table [vocab, columns] and ids i32[tokens]", fits, table, ids);
    return [{ dtype: table!.dtype, shape: [ids!.shape[0]!, table!.shape[1]!] }];
  },
  gradient(ctx) {
    if (!ctx.needs(0)) return [null, null];
    const vocab = ctx.builder.type(ctx.input(0)).shape[0]!;
    return [ctx.builder.value(EmbeddingGrad, [ctx.input(1), ctx.grad(0)!], { vocab }), null];
  },
  body: "standard",
  lower(e) {
    const [table, ids, y] = [e.input(0)!, e.input(1)!, e.output(0)];
    const { dtype, shape } = e.type(table);
    const [vocab, columns] = shape as [number, number];
    const tokens = e.type(ids).shape[0]!;
    // Rows of codes, whole blocks of them, are copied as so many floats.
    const [width, type] = isFloat(dtype) ? [columns, HALF_CODE[dtype]] : [columns / DTYPE_BYTES.f32, HALF_CODE.f32];
    e.emit(Opcode.Gather, [table, ids, y], [tokens, width, vocab, type]);
  },
  narrow: [0],
  halfInputs: [0],
});
