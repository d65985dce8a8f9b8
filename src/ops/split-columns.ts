import { Opcode } from "../../assembly/opcodes.ts";
import type { TensorType } from "../graph/types.ts";
import type { DType, FloatType } from "../base/dtype.ts";
import { areFloats } from "./half.ts";
import { narrow } from "./half-body.ts";
import { defineOp, expectShape, type KernelEmitter, type OpDef } from "./types.ts";

type ColumnsAttrs = {
  /** A row is so many groups side by side, each of which holds a piece of every part. */
  readonly groups: number;
  /** Columns of each part in a group. */
  readonly sizes: readonly number[];
};

const sum = (sizes: readonly number[]): number => sizes.reduce((total, size) => total + size, 0);

const partType = (dtype: DType, tokens: number, groups: number, size: number): TensorType => ({
  dtype,
  shape: [tokens, groups * size],
});

/**
 * `SplitColumns(x) -> y0, y1, ...`: the parts of a product of fused weights. x is [T, groups * sum(sizes)], y_i
 * [T, groups * sizes[i]], of one float type. In each group of a row the parts' pieces lie side by side, and a part's pieces from all groups
 * are joined: queries, keys and values one after another are one group; with those of each key head together, the groups
 * are the key heads. The gradient is `JoinColumns` of the gradients; a part without one has zeros.
 */
export const SplitColumns: OpDef<ColumnsAttrs> = defineOp<ColumnsAttrs>({
  name: "SplitColumns",
  domain: "remat",
  cost: "memory",
  infer([x], { groups, sizes }) {
    const [tokens = 0, width] = x?.shape ?? [];
    const fits = areFloats(x) && x!.shape.length === 2 && width === groups * sum(sizes);
    expectShape("SplitColumns", `float x [T, ${groups} * (${sizes.join(" + ")})]`, fits, x);
    return sizes.map((size) => partType(x!.dtype, tokens, groups, size));
  },
  gradient(ctx) {
    const { sizes } = ctx.attrs;
    return [
      ctx.builder.value(
        JoinColumns,
        sizes.map((_, i) => ctx.grad(i) ?? ""),
        ctx.attrs,
      ),
    ];
  },
  body(body, [x], [type], { groups, sizes }) {
    const tokens = type!.shape[0]!;
    const grouped = groups === 1 ? x! : body.op("Reshape", [x!, body.ints([tokens, groups, sum(sizes)])]);
    const parts = body.ops("Split", [grouped, body.ints(sizes)], { axis: groups === 1 ? 1 : 2 }, sizes.length);
    if (groups === 1) return parts;
    return parts.map((part, i) => body.op("Reshape", [part, body.ints([tokens, groups * sizes[i]!])]));
  },
  lower(e) {
    const [rows, width] = rowsOf(e, e.input(0)!);
    e.attrs.sizes.forEach((size, i) => {
      const from = { base: e.input(0)!, offset: offsetOf(e.attrs, i) };
      if (e.used(i)) e.emit(Opcode.CopyBlock, [from, e.output(i)], [rows, size, width, size]);
    });
  },
  narrow: [0],
});

/** `JoinColumns(y0, y1, ...) -> x`: undoes `SplitColumns`. An absent part is zeros. */
export const JoinColumns: OpDef<ColumnsAttrs> = defineOp<ColumnsAttrs>({
  name: "JoinColumns",
  domain: "remat",
  cost: "memory",
  infer(parts, { groups, sizes }) {
    const given = parts.filter((part) => part);
    const tokens = given[0]?.shape[0] ?? 0;
    const fits = sizes.every((size, i) => {
      const part = parts[i];
      return !part || (part.shape.length === 2 && part.shape[0] === tokens && part.shape[1] === groups * size);
    });
    expectShape(
      "JoinColumns",
      `parts [T, ${groups} * (${sizes.join(" or ")})] of one float type`,
      fits && tokens > 0 && areFloats(...given),
      ...parts,
    );
    return [partType(given[0]!.dtype, tokens, groups, sum(sizes))];
  },
  gradient(ctx) {
    const parts = ctx.builder.node(SplitColumns, [ctx.grad(0)!], ctx.attrs);
    return parts.map((part, i) => (ctx.needs(i) ? part : null));
  },
  body(body, parts, types, { groups, sizes }) {
    const { dtype, shape: outer } = types.find((type) => type)!;
    const tokens = outer[0]!;
    const shape = (size: number) => (groups === 1 ? [tokens, size] : [tokens, groups, size]);
    const pieces = sizes.map((size, i) => {
      const dims = body.ints(shape(size));
      if (!parts[i]) return narrow(body, body.op("ConstantOfShape", [dims]), dtype as FloatType);
      return groups === 1 ? parts[i] : body.op("Reshape", [parts[i], dims]);
    });
    const joined = body.op("Concat", pieces, { axis: groups === 1 ? 1 : 2 });
    return [groups === 1 ? joined : body.op("Reshape", [joined, body.ints([tokens, groups * sum(sizes)])])];
  },
  lower(e) {
    const [rows, width] = rowsOf(e, e.output(0));
    e.attrs.sizes.forEach((size, i) => {
      const to = { base: e.output(0), offset: offsetOf(e.attrs, i) };
      e.emit(Opcode.CopyBlock, [e.input(i), to], [rows, size, size, width]);
    });
  },
  narrow: "all",
});

/** Groups in all rows, and their columns. */
function rowsOf(e: KernelEmitter<ColumnsAttrs>, whole: string): [rows: number, width: number] {
  return [e.type(whole).shape[0]! * e.attrs.groups, sum(e.attrs.sizes)];
}

/** Bytes from the start of a group to a part's piece. */
const offsetOf = ({ sizes }: ColumnsAttrs, part: number): number => 4 * sum(sizes.slice(0, part));
