import { Opcode } from "../../assembly/opcodes.ts";
import { elements } from "../graph/types.ts";
import { softCapBody } from "./soft-cap-body.ts";
import { defineOp, expectShape, notDifferentiable } from "./types.ts";

type SoftCapAttrs = {
  readonly softcap: number;
};

/** A cap, where there is one, must be a positive number. */
export function expectCap(op: string, softcap: number | undefined): void {
  if (softcap !== undefined && !(softcap > 0 && Number.isFinite(softcap)))
    throw new Error(`${op}: expected a positive softcap; got ${softcap}`);
}

/** `SoftCap(x) = softcap tanh(x / softcap)`, f32 (Gemma 2, arXiv 2408.00118): of logits that are wanted themselves. */
export const SoftCap = defineOp<SoftCapAttrs>({
  name: "SoftCap",
  domain: "remat",
  cost: "memory",
  infer([x], { softcap }) {
    expectCap("SoftCap", softcap);
    expectShape("SoftCap", "an f32 tensor", x?.dtype === "f32", x);
    return [x!];
  },
  gradient: notDifferentiable("training has the cap within Attention and LinearCrossEntropy"),
  body: (body, [x], _types, { softcap }) => [softCapBody(body, x!, softcap).capped],
  lower(e) {
    const n = elements(e.type(e.output(0)).shape);
    e.emit(Opcode.SoftCap, [e.input(0), e.output(0)], [n, { f32: e.attrs.softcap }]);
  },
  inPlace: [[0, 0]],
});
