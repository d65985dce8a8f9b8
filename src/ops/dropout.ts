import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { type BodyBuilder, defineOp, expectShape, type OpDef } from "./types.ts";

type PhiloxDropoutAttrs = {
  /** Of an element to become 0. */
  readonly probability: number;
  /** Which mask of the segment: every dropout of a segment has its own number. */
  readonly site: number;
};

/** An element is dropped when its random word, as an unsigned number, lies below this: ceil(p 2^24) 2^8. */
function thresholdOf(probability: number): number {
  return Math.ceil(probability * 2 ** 24) * 256;
}

const scaleOf = (probability: number): number => 1 / (1 - probability);

/**
 * `PhiloxDropout(x, rng, segment)`: each element becomes 0 with `probability`, else x / (1 - probability)
 * (Srivastava et al. 2014). x f32 of any shape; rng i32[2] holds (seed, draw), segment i32[1].
 *
 * Random words come from Philox 4x32-10 (Salmon et al. 2011, https://doi.org/10.1145/2063384.2063405) with the key
 * (seed, draw) and the counter (e div 4, site, segment, 0): word e mod 4 of it belongs to element e. It is kept when
 * (word >>> 8) 2^-24 >= probability. So the mask can be made again at any time, and the gradient is this operator on dy.
 */
export const PhiloxDropout: OpDef<PhiloxDropoutAttrs> = defineOp({
  name: "PhiloxDropout",
  domain: "remat",
  cost: "memory",
  infer([x, rng, segment], { probability, site }) {
    const inRange = probability >= 0 && thresholdOf(probability) < 2 ** 32;
    if (!inRange) throw new Error(`PhiloxDropout: expected a probability from 0 to less than 1, got ${probability}`);
    if (!Number.isInteger(site) || site < 0) throw new Error(`PhiloxDropout: expected a number of a site, got ${site}`);
    const integers =
      rng?.dtype === "i32" && elements(rng.shape) === 2 && segment?.dtype === "i32" && elements(segment.shape) === 1;
    expectShape("PhiloxDropout", "x f32, rng i32[2] and segment i32[1]", x?.dtype === "f32" && integers, x, rng, segment);
    return [x!];
  },
  gradient(ctx) {
    return [ctx.builder.value(PhiloxDropout, [ctx.grad(0)!, ctx.input(1), ctx.input(2)], ctx.attrs), null, null];
  },
  body(body, [x, rng, segment], types, { probability, site }) {
    const { shape } = types[0]!;
    const n = elements(shape);
    const words = philoxWords(body, rng!, segment!, site, Math.ceil(n / 4));
    const flat = body.op("Slice", [body.op("Reshape", [words, body.ints([-1])]), body.ints([0]), body.ints([n])]);
    const keep = body.op("GreaterOrEqual", [flat, body.scalar(thresholdOf(probability), "i64")]);
    const scaled = body.op("Mul", [x!, body.scalar(scaleOf(probability))]);
    return [body.op("Where", [body.op("Reshape", [keep, body.ints(shape)]), scaled, body.scalar(0)])];
  },
  lower(e) {
    const { probability, site } = e.attrs;
    const scalars = [elements(e.type(e.output(0)).shape), site, thresholdOf(probability), { f32: scaleOf(probability) }];
    e.emit(Opcode.Dropout, [e.input(0), e.input(1), e.input(2), e.output(0)], scalars);
  },
  inPlace: [[0, 0]],
});

const ONNX_INT64 = 7;
const ONNX_UINT64 = 13;

/**
 * Philox 4x32-10 in standard operators, on words held as i64 in 0..2^32-1 -> i64 [blocks, 4]. A 64-bit product may
 * overflow into the sign, which keeps its bits; the upper half is shifted out as u64, the type that BitShift has.
 */
function philoxWords(body: BodyBuilder, rng: string, segment: string, site: number, blocks: number): string {
  const integer = (value: number) => body.scalar(value, "i64");
  const low = (a: string) => body.op("BitwiseAnd", [a, integer(0xffffffff)]);
  const xor = (a: string, b: string) => body.op("BitwiseXor", [a, b]);
  const word = (a: string) => low(body.op("Cast", [a], { to: ONNX_INT64 }));
  const high = (product: string) => {
    const bits = body.op("Cast", [product], { to: ONNX_UINT64 });
    const shifted = body.op("BitShift", [bits, body.scalar(32, "u64")], { direction: "RIGHT" });
    return body.op("Cast", [shifted], { to: ONNX_INT64 });
  };

  const keys = word(rng);
  let key0 = body.op("Gather", [keys, body.ints([0])]);
  let key1 = body.op("Gather", [keys, body.ints([1])]);
  let c0 = body.op("Range", [integer(0), integer(blocks), integer(1)]);
  let c1 = body.constant({ dtype: "i64", shape: [1], data: [site] });
  let c2 = word(segment);
  let c3 = body.constant({ dtype: "i64", shape: [1], data: [0] });
  for (let round = 0; round < 10; round++) {
    const product0 = body.op("Mul", [c0, integer(0xd2511f53)]);
    const product1 = body.op("Mul", [c2, integer(0xcd9e8d57)]);
    c0 = xor(xor(high(product1), c1), key0);
    c2 = xor(xor(high(product0), c3), key1);
    c1 = low(product1);
    c3 = low(product0);
    key0 = low(body.op("Add", [key0, integer(0x9e3779b9)]));
    key1 = low(body.op("Add", [key1, integer(0xbb67ae85)]));
  }
  const column = (a: string) => body.op("Reshape", [a, body.ints([-1, 1])]);
  const expanded = [c0, c1, c2, c3].map((c) => column(body.op("Expand", [c, body.ints([blocks])])));
  return body.op("Concat", expanded, { axis: 1 });
}
