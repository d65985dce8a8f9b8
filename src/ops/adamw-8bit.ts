import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, elements, type TensorType } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

/** Elements with one scale, as in bitsandbytes. assembly/optimizer-8bit.ts has the same number. */
export const CODES_BLOCK = 256;

/** Scalars of AdamW in `hyper`; the two maps follow. */
const SCALARS = 8;
const ENTRIES = 256;
const HYPER = SCALARS + 2 * ENTRIES;

/**
 * The 256 numbers, ascending, that codes of a moment stand for: the dynamic map of Dettmers 2016
 * (https://arxiv.org/abs/1511.04561), as bitsandbytes lays it out. A number is 10^-e times the middle of one of the equal
 * parts of [0.1, 1]; the larger it is, the more parts there are: 2^(6 - e) for each sign, or twice as many without a sign.
 * Besides, there are 0 and 1.
 */
export function dynamicMap(signed: boolean): Float32Array {
  const numbers = [0, 1];
  for (let i = 0; i < 7; i++) {
    const parts = 2 ** (signed ? i : i + 1);
    const bound = (j: number) => boundary(j, parts);
    for (let j = 0; j < parts; j++) {
      // Rounded where bitsandbytes rounds, so that the entries are the same to the bit.
      const middle = Math.fround(Math.fround(bound(j) + bound(j + 1)) / 2);
      const number = Math.fround(Math.fround(10 ** (i - 6)) * middle);
      numbers.push(number, ...(signed ? [-number] : []));
    }
  }
  return Float32Array.from(numbers).sort();
}

/** Entry j of torch.linspace(0.1, 1, parts + 1) in f32, which counts from the nearer end. */
function boundary(j: number, parts: number): number {
  const step = Math.fround((1 - Math.fround(0.1)) / parts);
  return j < (parts + 1) / 2 ? Math.fround(Math.fround(0.1) + step * j) : Math.fround(1 - step * (parts - j));
}

/** The scalars of `hyper`, completed by the maps of both moments. */
export function withMaps(scalars: readonly number[]): number[] {
  return [...scalars, ...dynamicMap(true), ...dynamicMap(false)];
}

/**
 * `AdamW8bit(param, grad, codes1, codes2, scales1, scales2, hyper) -> param', codes1', codes2', scales1', scales2'`: AdamW whose
 * moments are eight-bit codes with a scale per block of 256 elements (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861).
 * `param` and `grad` are f32[n] with n a multiple of 256, codes u8[n], scales f32[n / 256]; usually in place. `hyper` is f32[520]:
 * that of AdamW, then the maps of the first and of the second moment.
 *
 *     m = beta1 map1[codes1] scales1 + (1 - beta1) g, v likewise with g^2; param' is AdamW's of these m and v
 *     scales1' = max |m| of the block; codes1' = the entry of map1 that is nearest to m / scales1' (of two, the lower)
 */
export const AdamW8bit = defineOp<NoAttrs>({
  name: "AdamW8bit",
  domain: "remat",
  cost: "memory",
  infer([param, grad, codes1, codes2, scales1, scales2, hyper]) {
    const n = param ? elements(param.shape) : 0;
    const flat = (type: TensorType | null | undefined, dtype: string, size: number) =>
      type?.dtype === dtype && type.shape.length === 1 && type.shape[0] === size;
    const fits =
      n > 0 &&
      n % CODES_BLOCK === 0 &&
      [param, grad].every((type) => flat(type, "f32", n)) &&
      [codes1, codes2].every((type) => flat(type, "u8", n)) &&
      [scales1, scales2].every((type) => flat(type, "f32", n / CODES_BLOCK)) &&
      flat(hyper, "f32", HYPER);
    expectShape(
      "AdamW8bit",
      `param, grad f32[n], two codes u8[n], two scales f32[n / ${CODES_BLOCK}], n a multiple of ${CODES_BLOCK}, and hyper f32[${HYPER}]`,
      fits,
      param,
      grad,
      codes1,
      codes2,
      scales1,
      scales2,
      hyper,
    );
    return [param!, codes1!, codes2!, scales1!, scales2!];
  },
  gradient: notDifferentiable("an optimizer update; it is no part of a loss"),
  body(body, [param, grad, codes1, codes2, scales1, scales2, hyper], [type]) {
    const n = elements(type!.shape);
    const scalar = (i: number) => body.op("Gather", [hyper!, body.ints([i])]);
    const [lr, beta1, beta2, epsilon, decay, correction1, correction2, scale] = Array.from({ length: SCALARS }, (_, i) =>
      scalar(i),
    );
    const mul = (a: string, b: string) => body.op("Mul", [a, b]);
    const add = (a: string, b: string) => body.op("Add", [a, b]);
    const div = (a: string, b: string) => body.op("Div", [a, b]);
    const oneMinus = (a: string) => body.op("Sub", [body.scalar(1), a]);
    const sqrt = (a: string) => body.op("Sqrt", [a]);
    const shaped = (x: string, ...shape: number[]) => body.op("Reshape", [x, body.ints(shape)]);
    const part = (x: string, from: number, to: number) => body.op("Slice", [x, body.ints([from]), body.ints([to])]);
    const maps = [0, 1].map((i) => part(hyper!, SCALARS + i * ENTRIES, SCALARS + (i + 1) * ENTRIES));

    const moment = (codes: string, map: string, scales: string) =>
      mul(shaped(body.op("Gather", [map, body.op("Cast", [codes], { to: "i32" })]), -1, CODES_BLOCK), shaped(scales, -1, 1));
    const blocks = (x: string) => shaped(x, -1, CODES_BLOCK);
    const g = mul(blocks(grad!), scale!);
    const m = add(mul(moment(codes1!, maps[0]!, scales1!), beta1!), mul(g, oneMinus(beta1!)));
    const v = add(mul(moment(codes2!, maps[1]!, scales2!), beta2!), mul(mul(g, g), oneMinus(beta2!)));
    const root = add(div(sqrt(v), sqrt(correction2!)), epsilon!);
    const step = div(mul(m, div(lr!, correction1!)), root);
    const next = body.op("Sub", [mul(blocks(param!), oneMinus(mul(lr!, decay!))), step]);

    const largest = (x: string) => body.op("ReduceMax", [x, body.ints([1])], { keepdims: 1 });
    const [up, down] = [largest(m), largest(body.op("Neg", [m]))];
    const newScales1 = body.op("Where", [body.op("GreaterOrEqual", [up, down]), up, down]);
    const newScales2 = largest(v);
    const codesOf = (x: string, scales: string, map: string) =>
      shaped(body.op("Cast", [nearest(body, div(x, divisorOf(body, scales)), map, part)], { to: "u8" }), n);
    return [
      shaped(next, n),
      codesOf(m, newScales1, maps[0]!),
      codesOf(v, newScales2, maps[1]!),
      shaped(newScales1, -1),
      shaped(newScales2, -1),
    ];
  },
  lower(e) {
    const n = elements(e.type(e.input(0)!).shape);
    const bytes = [0, 2, 3, 4, 5].map((i) => byteLength(e.type(e.input(i)!)));
    // The kernel writes all five.
    const outputs = bytes.map((size, i) => (e.used(i) ? e.output(i) : e.scratch(size)));
    e.emit(Opcode.AdamW8bit, [...[0, 1, 2, 3, 4, 5, 6].map((i) => e.input(i)), ...outputs], [n]);
  },
  inPlace: [
    [0, 0],
    [1, 2],
    [2, 3],
    [3, 4],
    [4, 5],
  ],
});

/** Returns what a block is divided by: its scale, or 1 where all of it is 0. */
function divisorOf(body: BodyBuilder, scales: string): string {
  return body.op("Where", [body.op("LessOrEqual", [scales, body.scalar(0)]), body.scalar(1), scales]);
}

/**
 * The index, i32, of the entry of an ascending map that is nearest to each x: how many of the 255 middles between entries lie
 * below x, by bisection.
 */
function nearest(body: BodyBuilder, x: string, map: string, part: (x: string, from: number, to: number) => string): string {
  const sum = body.op("Add", [part(map, 0, ENTRIES - 1), part(map, 1, ENTRIES)]);
  const middles = body.op("Mul", [sum, body.scalar(0.5)]);
  let code = "";
  for (let step = ENTRIES / 2; step >= 1; step /= 2) {
    const last = body.scalar(step - 1, "i32");
    const at = code === "" ? last : body.op("Add", [code, last]);
    const isBelow = body.op("LessOrEqual", [x, body.op("Gather", [middles, at])]);
    const [low, high] =
      code === "" ? [body.scalar(0, "i32"), body.scalar(step, "i32")] : [code, body.op("Add", [code, body.scalar(step, "i32")])];
    code = body.op("Where", [isBelow, low, high]);
  }
  return code;
}
