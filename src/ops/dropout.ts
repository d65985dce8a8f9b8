import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { areFloats } from "./half.ts";
import { philoxBody } from "./philox-body.ts";
import { defineOp, expectShape, type OpDef } from "./types.ts";

type PhiloxDropoutAttrs = {
  /** The probability of an element to become 0. */
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
 * (Srivastava et al. 2014). x of any shape and float type; rng i32[2] holds (seed, draw), segment i32[1].
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
    expectShape("PhiloxDropout", "a float x, rng i32[2] and segment i32[1]", areFloats(x) && integers, x, rng, segment);
    return [x!];
  },
  gradient(ctx) {
    return [ctx.builder.value(PhiloxDropout, [ctx.grad(0)!, ctx.input(1), ctx.input(2)], ctx.attrs), null, null];
  },
  body(body, [x, rng, segment], types, { probability, site }) {
    const { shape, dtype } = types[0]!;
    const kept = philoxBody(body, { rng: rng!, segment: segment!, site, elements: elements(shape) }, thresholdOf(probability));
    const scaled = body.op("Mul", [x!, body.scalar(scaleOf(probability), dtype)]);
    return [body.op("Where", [body.op("Reshape", [kept, body.ints(shape)]), scaled, body.scalar(0, dtype)])];
  },
  lower(e) {
    const { probability, site } = e.attrs;
    const scalars = [elements(e.type(e.output(0)).shape), site, thresholdOf(probability), { f32: scaleOf(probability) }];
    e.emit(Opcode.Dropout, [e.input(0), e.input(1), e.input(2), e.output(0)], scalars);
  },
  narrow: [0],
  inPlace: [[0, 0]],
});
