import { Opcode } from "../../assembly/opcodes.ts";
import { sameType, type TensorType } from "../graph/types.ts";
import { ColumnSum } from "./column-sum.ts";
import { type BodyBuilder, defineOp, expectShape, type KernelEmitter, type NoAttrs, notDifferentiable } from "./types.ts";

type Types = readonly (TensorType | null | undefined)[];

/** @throws {ShapeError} x [T, C], a filter for each channel, maybe a bias, all f32 */
export function expectFilters(op: string, [x, weight, bias]: Types): void {
  const [, channels = 0] = x?.shape ?? [];
  const rows = x?.dtype === "f32" && x.shape.length === 2;
  const [filters, one, width = 0] = weight?.shape ?? [];
  const fits = rows && weight?.dtype === "f32" && weight.shape.length === 3 && filters === channels && one === 1 && width > 0;
  const biasFits = !bias || sameType(bias, { dtype: "f32", shape: [channels] });
  expectShape(op, `f32 x [T, C], filters [C, 1, width] and bias [C]`, fits && biasFits, x, weight, bias);
}

function expectStarts(op: string, x: TensorType, starts: TensorType | null | undefined): void {
  const fits = !!starts && sameType(starts, { dtype: "i32", shape: [x.shape[0]!] });
  expectShape(op, `starts i32[${x.shape[0]}]`, fits, starts);
}

/** Rows, channels and taps. */
function sizesOf([x, weight]: Types): { readonly tokens: number; readonly channels: number; readonly width: number } {
  const [tokens, channels] = x!.shape as [number, number];
  return { tokens, channels, width: weight!.shape[2]! };
}

/** The taps of distance j as a row [C]. */
export function tapAt(body: BodyBuilder, weight: string, width: number, j: number): string {
  const at = width - 1 - j;
  return body.op("Reshape", [body.op("Slice", [weight, body.ints([at]), body.ints([at + 1]), body.ints([2])]), body.ints([-1])]);
}

const rows = (body: BodyBuilder, x: string, from: number, to: number): string =>
  body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([0])]);

/** The rows of x moved down by j; what comes to the first j rows is not for use. */
function movedDown(body: BodyBuilder, x: string, j: number, tokens: number): string {
  return j === 0 ? x : body.op("Concat", [rows(body, x, 0, j), rows(body, x, 0, tokens - j)], { axis: 0 });
}

/** Gives x where a row sees the one j rows before it, and 0 elsewhere. */
function whereSeen(body: BodyBuilder, starts: string, tokens: number): (x: string, j: number) => string {
  const places = body.op("Range", [body.scalar(0, "i32"), body.scalar(tokens, "i32"), body.scalar(1, "i32")]);
  const seen = (j: number) => {
    const isSeen = body.op("LessOrEqual", [starts, body.op("Sub", [places, body.scalar(j, "i32")])]);
    return body.op("Unsqueeze", [isSeen, body.ints([1])]);
  };
  return (x, j) => (j === 0 ? x : body.op("Where", [seen(j), x, body.scalar(0)]));
}

const scratchOf = (e: KernelEmitter, { channels, width }: { readonly channels: number; readonly width: number }) =>
  e.scratch(4 * channels * width);

/**
 * `CausalConv(x, weight, starts, bias?) -> y`: each channel's own filter over the rows of a text up to the one in question,
 *
 *     y[t, c] = bias[c] + sum over j < width with t - j >= starts[t] of weight[c, 0, width - 1 - j] x[t - j, c].
 *
 * x and y are f32[T, C], weight f32[C, 1, width] as PyTorch's depthwise `Conv1d` has it, starts i32[T] with 0 <= starts[t] <= t, which never
 * decrease: texts lie one behind another.
 */
export const CausalConv = defineOp<NoAttrs>({
  name: "CausalConv",
  domain: "remat",
  cost: "memory",
  infer([x, weight, starts, bias]) {
    expectFilters("CausalConv", [x, weight, bias]);
    expectStarts("CausalConv", x!, starts);
    return [x!];
  },
  gradient(ctx) {
    const dy = ctx.grad(0)!;
    const wanted = ctx.needs(0) || ctx.needs(1);
    const inputs = [dy, ctx.input(0), ctx.input(1), ctx.input(2)];
    const [dx, dw] = wanted ? ctx.builder.node(CausalConvGrad, inputs, {}) : [];
    return [
      ctx.needs(0) ? dx! : null,
      ctx.needs(1) ? dw! : null,
      null,
      ctx.needs(3) ? ctx.builder.value(ColumnSum, [dy], {}) : null,
    ];
  },
  body(body, [x, weight, starts, bias], types) {
    const { tokens, width } = sizesOf(types);
    const seen = whereSeen(body, starts!, tokens);
    const terms = Array.from({ length: Math.min(width, tokens) }, (_, j) =>
      body.op("Mul", [seen(movedDown(body, x!, j, tokens), j), tapAt(body, weight!, width, j)]),
    );
    const sum = terms.reduce((all, term) => body.op("Add", [all, term]));
    return [bias ? body.op("Add", [sum, bias]) : sum];
  },
  lower(e) {
    const sizes = sizesOf([e.type(e.input(0)!), e.type(e.input(1)!)]);
    const operands = [e.input(0), e.input(1), e.input(2), e.input(3), e.output(0), scratchOf(e, sizes)];
    for (const phase of [0, 1]) e.emit(Opcode.CausalConv, operands, [phase, sizes.tokens, sizes.channels, sizes.width]);
  },
});

/**
 * `CausalConvGrad(dy, x, weight, starts) -> dx, dweight`:
 *
 *     dx[s, c] = sum over j with starts[s + j] <= s of weight[c, 0, width - 1 - j] dy[s + j, c]
 *     dweight[c, 0, width - 1 - j] = sum over t with starts[t] <= t - j of dy[t, c] x[t - j, c]
 */
export const CausalConvGrad = defineOp<NoAttrs>({
  name: "CausalConvGrad",
  domain: "remat",
  cost: "memory",
  infer([dy, x, weight, starts]) {
    expectFilters("CausalConvGrad", [x, weight]);
    expectShape("CausalConvGrad", "dy of the type of x", !!dy && sameType(dy, x!), dy, x);
    expectStarts("CausalConvGrad", x!, starts);
    return [x!, weight!];
  },
  gradient: notDifferentiable("a gradient operator; second derivatives are not offered"),
  body(body, [dy, x, weight, starts], [, xType, weightType]) {
    const { tokens, channels, width } = sizesOf([xType, weightType]);
    const seen = whereSeen(body, starts!, tokens);
    const near = Array.from({ length: Math.min(width, tokens) }, (_, j) => seen(dy!, j));
    const parts = near.map((g, j) => {
      // The first j rows see nothing so far back: they are the zeros that the last j rows of dx get.
      const moved = j === 0 ? g : body.op("Concat", [rows(body, g, j, tokens), rows(body, g, 0, j)], { axis: 0 });
      return body.op("Mul", [moved, tapAt(body, weight!, width, j)]);
    });
    const filter = (sum: string) => body.op("Reshape", [sum, body.ints([channels, 1, 1])]);
    const taps = Array.from({ length: width }, (_, j) => {
      const g = near[j];
      if (g === undefined) return body.constant({ dtype: "f32", shape: [channels, 1, 1], data: Array<number>(channels).fill(0) });
      const products = body.op("Mul", [g, movedDown(body, x!, j, tokens)]);
      return filter(body.op("ReduceSum", [products, body.ints([0])], { keepdims: 0 }));
    });
    const dWeight = width === 1 ? taps[0]! : body.op("Concat", taps.toReversed(), { axis: 2 });
    return [parts.reduce((all, part) => body.op("Add", [all, part])), dWeight];
  },
  lower(e) {
    const sizes = sizesOf([e.type(e.input(1)!), e.type(e.input(2)!)]);
    const [dx, dw] = [0, 1].map((i) => (e.used(i) ? e.output(i) : null));
    const taps = dx === null ? null : scratchOf(e, sizes);
    const sums = dw === null ? null : e.scratch(8 * sizes.channels * sizes.width);
    const operands = [e.input(0), e.input(1), e.input(2), e.input(3), dx!, dw!, taps, sums];
    const phases = [...(dx === null ? [] : [0, 1]), ...(dw === null ? [] : [2])];
    for (const phase of phases) e.emit(Opcode.CausalConvGrad, operands, [phase, sizes.tokens, sizes.channels, sizes.width]);
  },
});
