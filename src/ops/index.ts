import type { Node } from "../graph/types.ts";
import { SwiGLU, SwiGLUGrad } from "./swiglu.ts";
import type { OpDef } from "./types.ts";

/** Every operator. An operator is one file in this folder, its kernels in assembly/, and a test. */
export const OPS = {
  SwiGLU,
  SwiGLUGrad,
} satisfies Record<string, OpDef<any>>;

export type OpName = keyof typeof OPS;

/** Definition of a node's operator. */
export function opOf(node: Pick<Node, "op">): OpDef {
  if (!Object.hasOwn(OPS, node.op)) throw new Error(`no operator named ${node.op}; ${Object.keys(OPS).join(", ")} exist`);
  return OPS[node.op as OpName] as OpDef<any>;
}
