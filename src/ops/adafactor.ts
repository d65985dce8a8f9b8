import { Opcode } from "../../assembly/opcodes.ts";
import { elements, sameType, type TensorType } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/**
 * The operators of Adafactor (Shazeer and Stern 2018, https://arxiv.org/abs/1804.04235) as torch.optim.Adafactor computes it. The second moments of
 * a gradient f32[rows, columns] are one value for each row and one for each column; those of a vector f32[n] are the n values of its
 * "columns". `hyper` is f32[5]: learning rate, weight decay, gradient scale, share of the new squares, and relative step.
 */
const HYPER = 5;
const [RATE, DECAY, SCALE, TAKE, STEP] = [0, 1, 2, 3, 4];

/** The least root of a second moment that is divided by, and the least mean of the rows': PyTorch's epsilon of f32. */
const LEAST = 2 ** -23;
/** The least root mean square of a parameter that a step is relative to. */
const LEAST_SIZE = 1e-3;

const isHyper = (type: TensorType | null | undefined): boolean => type?.dtype === "f32" && elements(type.shape) === HYPER;
const isVector = (type: TensorType | null | undefined, size: number): boolean =>
  type?.dtype === "f32" && type.shape.length === 1 && type.shape[0] === size;
const isGradient = (type: TensorType | null | undefined): type is TensorType =>
  type?.dtype === "f32" && (type.shape.length === 1 || type.shape.length === 2);
const sizesOf = ({ shape }: TensorType): [rows: number, columns: number] => [shape.length === 1 ? 1 : shape[0]!, shape.at(-1)!];

const entry = (body: BodyBuilder, hyper: string, at: number): string => body.op("Gather", [hyper, body.ints([at])]);
const mul = (body: BodyBuilder, a: string, b: string): string => body.op("Mul", [a, b]);
const atLeast = (body: BodyBuilder, x: string, least: number): string => {
  const bound = body.scalar(Math.fround(least));
  return body.op("Where", [body.op("GreaterOrEqual", [x, bound]), x, bound]);
};

/** (1 - take) v + take mean, with the mean of the squares of the scaled gradient over an axis. */
function towardsMean(body: BodyBuilder, [grad, v, hyper]: readonly string[], axis: number, count: number): string {
  const g = mul(body, grad!, entry(body, hyper!, SCALE!));
  const squares = body.op("ReduceSumSquare", [g, body.ints([axis])], { keepdims: 0 });
  const take = entry(body, hyper!, TAKE!);
  const kept = mul(body, v!, body.op("Sub", [body.scalar(1), take]));
  return body.op("Add", [kept, mul(body, body.op("Div", [squares, body.scalar(count)]), take)]);
}

/**
 * `AdafactorRows(grad, v, hyper) -> v', share`: grad f32[rows, columns], the others f32[rows]; v' usually in the place of v.
 *
 *     v' = (1 - take) v + take mean over columns of (scale grad)^2;  share = v' / max(mean of v', 2^-23)
 */
export const AdafactorRows = defineOp<NoAttrs>({
  name: "AdafactorRows",
  domain: "remat",
  cost: "memory",
  infer([grad, v, hyper]) {
    const fits = grad?.dtype === "f32" && grad.shape.length === 2 && isVector(v, grad.shape[0]!) && isHyper(hyper);
    expectShape("AdafactorRows", `grad f32[rows, columns], v f32[rows] and hyper f32[${HYPER}]`, fits, grad, v, hyper);
    return [v!, v!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, inputs, types) {
    const [rows, columns] = sizesOf(types[0]!);
    const next = towardsMean(body, inputs, 1, columns);
    const mean = body.op("Div", [body.op("ReduceSum", [next, body.ints([0])], { keepdims: 1 }), body.scalar(rows)]);
    return [next, body.op("Div", [next, atLeast(body, mean, LEAST)])];
  },
  lower(e) {
    const [rows, columns] = sizesOf(e.type(e.input(0)!));
    const next = e.used(0) ? e.output(0) : e.scratch(4 * rows);
    e.emit(Opcode.AdafactorRows, [e.input(0), e.input(1), e.input(2), next], [rows, columns]);
    if (e.used(1)) e.emit(Opcode.AdafactorShare, [next, e.output(1)], [rows, { f32: LEAST }]);
  },
  inPlace: [[0, 1]],
});

/**
 * `AdafactorColumns(grad, v, hyper) -> v'`: grad f32[rows, columns] or f32[columns], v f32[columns]; usually in the place of v.
 *
 *     v' = (1 - take) v + take mean over rows of (scale grad)^2
 */
export const AdafactorColumns = defineOp<NoAttrs>({
  name: "AdafactorColumns",
  domain: "remat",
  cost: "memory",
  infer([grad, v, hyper]) {
    const fits = isGradient(grad) && isVector(v, grad.shape.at(-1)!) && isHyper(hyper);
    expectShape("AdafactorColumns", `grad f32[rows?, columns], v f32[columns] and hyper f32[${HYPER}]`, fits, grad, v, hyper);
    return [v!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [grad, v, hyper], types) {
    const [rows, columns] = sizesOf(types[0]!);
    return [towardsMean(body, [body.op("Reshape", [grad!, body.ints([rows, columns])]), v!, hyper!], 0, rows)];
  },
  lower(e) {
    e.emit(Opcode.AdafactorColumns, [e.input(0), e.input(1), e.input(2), e.output(0)], sizesOf(e.type(e.input(0)!)));
  },
  inPlace: [[0, 1]],
});

/** The direction of a step: scale grad / sqrt(max(share v, 2^-46)), with the shares as a column; without them 1. */
function direction(body: BodyBuilder, grad: string, v: string, hyper: string, share: string | undefined): string {
  const moments = share ? mul(body, body.op("Reshape", [share, body.ints([-1, 1])]), v) : v;
  const root = body.op("Sqrt", [atLeast(body, moments, LEAST * LEAST)]);
  return body.op("Div", [mul(body, grad, entry(body, hyper, SCALE!)), root]);
}

const fitsMoments = (
  grad: TensorType | null | undefined,
  v: TensorType | null | undefined,
  share: TensorType | null | undefined,
): boolean =>
  isGradient(grad) && isVector(v, grad.shape.at(-1)!) && (grad.shape.length === 1 ? !share : isVector(share, grad.shape[0]!));

/**
 * `AdafactorSquares(grad, v, hyper, share?) -> f32[1]`: the sum of the squares of the direction scale grad / sqrt(max(share v, 2^-46)); grad f32[rows,
 * columns], v f32[columns] and share f32[rows], or grad and v f32[n] without a share. Rows are summed in f64.
 */
export const AdafactorSquares = defineOp<NoAttrs>({
  name: "AdafactorSquares",
  domain: "remat",
  cost: "memory",
  infer([grad, v, hyper, share]) {
    const fits = fitsMoments(grad, v, share) && isHyper(hyper);
    const wanted = `grad f32[rows, columns], v f32[columns], hyper f32[${HYPER}] and share f32[rows], or grad and v f32[n]`;
    expectShape("AdafactorSquares", wanted, fits, grad, v, hyper, share);
    return [{ dtype: "f32", shape: [1] }];
  },
  gradient: notDifferentiable("a part of an optimizer update; it is no part of a loss"),
  body(body, [grad, v, hyper, share]) {
    const flat = body.op("Reshape", [direction(body, grad!, v!, hyper!, share), body.ints([-1])]);
    return [body.op("ReduceSumSquare", [flat, body.ints([0])], { keepdims: 1 })];
  },
  lower(e) {
    const [rows, columns] = sizesOf(e.type(e.input(0)!));
    const partial = e.scratch(8 * rows);
    e.emit(Opcode.AdafactorSquares, [...[0, 1, 2, 3].map((i) => e.input(i)), partial], [rows, columns]);
    e.emit(Opcode.Sum, [partial, e.output(0)], [rows]);
  },
});

/**
 * `AdafactorStep(param, grad, v, hyper, paramSquares, squares, share?) -> param'`: param and grad f32 of one shape, `paramSquares` and `squares` f32[1] the
 * sums of the squares of the parameter and of its direction u, the rest as for AdafactorSquares; usually in the place of param.
 *
 *     param' = (1 - lr decay) param - step max(1e-3, rms(param)) / max(1, rms(u)) u
 */
export const AdafactorStep = defineOp<NoAttrs>({
  name: "AdafactorStep",
  domain: "remat",
  cost: "memory",
  infer([param, grad, v, hyper, paramSquares, squares, share]) {
    const sums = [paramSquares, squares].every((type) => isVector(type, 1));
    const fits = !!param && !!grad && sameType(param, grad) && fitsMoments(grad, v, share) && isHyper(hyper) && sums;
    const wanted = `param, grad of one f32 type, its moments, hyper f32[${HYPER}] and two sums f32[1]`;
    expectShape("AdafactorStep", wanted, fits, param, grad, v, hyper, paramSquares, squares, share);
    return [param!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, grad, v, hyper, paramSquares, squares, share], types) {
    const count = body.scalar(elements(types[0]!.shape));
    const rms = (sum: string) => body.op("Sqrt", [body.op("Div", [sum, count])]);
    const size = mul(body, atLeast(body, rms(paramSquares!), LEAST_SIZE), entry(body, hyper!, STEP!));
    const rate = body.op("Div", [size, atLeast(body, rms(squares!), 1)]);
    const decay = mul(body, entry(body, hyper!, RATE!), entry(body, hyper!, DECAY!));
    const kept = mul(body, param!, body.op("Sub", [body.scalar(1), decay]));
    return [body.op("Sub", [kept, mul(body, direction(body, grad!, v!, hyper!, share), rate)])];
  },
  lower(e) {
    const [rows, columns] = sizesOf(e.type(e.input(0)!));
    e.emit(
      Opcode.AdafactorStep,
      [...[0, 1, 2, 3, 4, 5, 6].map((i) => e.input(i)), e.output(0)],
      [rows, columns, { f32: LEAST_SIZE }],
    );
  },
  inPlace: [[0, 0]],
});
