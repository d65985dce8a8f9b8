import { GraphBuilder } from "../../src/graph/builder.ts";
import type { Attrs } from "../../src/graph/types.ts";
import { Cast, CAST_TO } from "../../src/ops/cast.ts";
import type { OpCase, TestTensor } from "./ops.ts";
import { expectParity } from "./ort.ts";

/**
 * Checks an operator's ONNX form (the standard operator, or the function body) on ONNX Runtime's CPU provider against
 * its kernels: f32 outputs within `bound` (norm-wise relative error; 0: equal), all others equal.
 */
export async function checkOnnx<A extends Attrs>(options: OpCase<A> & { readonly bound: number }): Promise<void> {
  const { op, inputs, attrs, bound } = options;
  const builder = new GraphBuilder(op.name);
  const feeds = new Map<string, TestTensor>();
  const operands = inputs.map((tensor, i) => {
    if (!tensor) return "";
    const name = builder.input(`in${i}`, "boundary", { dtype: tensor.dtype, shape: tensor.shape });
    feeds.set(name, tensor);
    const isHalf = tensor.dtype === "bf16" || tensor.dtype === "f16";
    return isHalf ? builder.value(Cast, [name], { to: CAST_TO.f32 }) : name;
  });
  for (const name of builder.node(op, operands, attrs, "out")) builder.output({ name, role: "boundary" });
  await expectParity(builder.build(), feeds, bound);
}
