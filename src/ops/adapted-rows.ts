import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type AdaptedRowsAttrs = {
  /** Which row of the table is the module's. */
  readonly site: number;
};

/** The greatest rank of an adapter that rows may have. */
export const MOST_RANK = 512;
/** Words of a table's entry: addresses of A [rank, in] and B [out, rank], the rank, the scale (its f32 bits). */
export const ENTRY_WORDS = 4;

/**
 * `AdaptedRows(y, x, table) -> y'`: y'[i] = y[i] + scale (x[i] A^T) B^T with the low-rank pair of row i, which
 * `table[site, i]` names by its addresses in the executor's memory; rank 0: y'[i] = y[i]. y is f32[T, out], x f32[T, in], the table
 * i32[sites, T, 4]. A row's bits are those of the two `Gemm`s that a model with that adapter alone runs for one token.
 */
export const AdaptedRows = defineOp<AdaptedRowsAttrs>({
  name: "AdaptedRows",
  domain: "remat",
  cost: "compute",
  infer([y, x, table], { site }) {
    const isMatrix = (type: TensorType | null | undefined): type is TensorType =>
      type?.dtype === "f32" && type.shape.length === 2;
    const rows = isMatrix(y) && isMatrix(x) && y.shape[0] === x.shape[0] ? y.shape[0]! : 0;
    const sites = table?.shape[0] ?? 0;
    const fits = rows > 0 && !!table && sameType(table, { dtype: "i32", shape: [sites, rows, ENTRY_WORDS] });
    expectShape("AdaptedRows", "f32 y [T, out] and x [T, in], table i32[sites, T, 4]", fits, y, x, table);
    expectShape("AdaptedRows", `more than ${site} sites`, Number.isInteger(site) && site >= 0 && site < sites, table);
    return [y!];
  },
  gradient: notDifferentiable("adapters are trained one at a time, with nodes of their own"),
  body: { noBody: "its table holds addresses" },
  lower(e) {
    const [y, x, table] = [e.input(0)!, e.input(1)!, e.input(2)!];
    const [rows, outer] = e.type(y).shape as [number, number];
    const bytes = 4 * ENTRY_WORDS * rows;
    const entries = { base: table, offset: e.attrs.site * bytes, bytes };
    const operands = [y, x, entries, e.output(0), e.scratch(4 * rows * MOST_RANK)];
    for (const phase of [0, 1]) e.emit(Opcode.AdaptedRows, operands, [phase, rows, e.type(x).shape[1]!, outer, MOST_RANK]);
  },
  inPlace: [[0, 0]],
});
