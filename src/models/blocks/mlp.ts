import type { GraphBuilder } from "../../graph/builder.ts";
import { Affine } from "../../ops/affine.ts";
import { Gelu } from "../../ops/gelu.ts";
import { Mul } from "../../ops/mul.ts";
import { Relu } from "../../ops/relu.ts";
import { Silu } from "../../ops/silu.ts";
import { SplitColumns } from "../../ops/split-columns.ts";
import { SwiGLU } from "../../ops/swiglu.ts";
import { Tanh } from "../../ops/tanh.ts";
import type { HiddenAct } from "../config.ts";
import type { BlockParts } from "./layer.ts";

const LLAMA_NAMES = { gate: "mlp.gate_proj", up: "mlp.up_proj", down: "mlp.down_proj" };

/** The gated MLP (Shazeer 2020, https://arxiv.org/abs/2002.05202) of x [tokens, hiddenSize], with the names of its three layers. */
export function gatedMlp(parts: BlockParts, x: string, names = LLAMA_NAMES, width = parts.config.intermediateSize): string {
  const { config, project } = parts;
  const { hiddenSize, mlpBias } = config;
  const gate = project(x, names.gate, hiddenSize, width, mlpBias);
  const up = project(x, names.up, hiddenSize, width, mlpBias);
  return project(gated(parts, gate, up), names.down, width, hiddenSize, mlpBias);
}

const PHI_NAMES = { both: "mlp.gate_up_proj", down: "mlp.down_proj" };

/** The gated MLP whose gate and up are one matrix, one after the other (Phi-3). */
export function fusedMlp(parts: BlockParts, x: string, names = PHI_NAMES): string {
  const { builder, config, project } = parts;
  const { hiddenSize, intermediateSize: size } = config;
  const product = project(x, names.both, hiddenSize, 2 * size, false);
  const [gate, up] = builder.node(SplitColumns, [product], { groups: 1, sizes: [size, size] }, `${names.both}.split`);
  return project(gated(parts, gate!, up!), names.down, size, hiddenSize, false);
}

/** The MLP without a gate of x [tokens, hiddenSize], with the names of its two layers. */
export function plainMlp(
  { builder, config, project }: BlockParts,
  x: string,
  names: { readonly up: string; readonly down: string },
): string {
  const { hiddenSize, intermediateSize, mlpBias, hiddenAct } = config;
  const up = project(x, names.up, hiddenSize, intermediateSize, mlpBias);
  return project(activated(builder, hiddenAct, up), names.down, intermediateSize, hiddenSize, mlpBias);
}

/** 1 / (1 + e^-x) = (1 + tanh(x / 2)) / 2 */
export function sigmoid(builder: GraphBuilder, x: string): string {
  const half = builder.value(Affine, [x], { alpha: 0.5, beta: 0 });
  return builder.value(Affine, [builder.value(Tanh, [half], {})], { alpha: 0.5, beta: 0.5 }, `${x}.sigmoid`);
}

/** The activation of x. */
export function activated(builder: GraphBuilder, act: HiddenAct, x: string): string {
  const name = `${x}.activated`;
  const scaled = (value: string, alpha: number) => builder.value(Affine, [value], { alpha, beta: 0 });
  switch (act) {
    case "silu":
      return builder.value(Silu, [x], {}, name);
    case "gelu":
      return builder.value(Gelu, [x], { approximate: "none" }, name);
    case "gelu_pytorch_tanh":
      return builder.value(Gelu, [x], { approximate: "tanh" }, name);
    case "relu":
      return builder.value(Relu, [x], {}, name);
    case "relu2": {
      const positive = builder.value(Relu, [x], {}, name);
      return builder.value(Mul, [positive, positive], {}, `${x}.squared`);
    }
    case "quick_gelu":
      // x sigmoid(1.702 x)
      return scaled(builder.value(Silu, [scaled(x, 1.702)], {}, name), 1 / 1.702);
  }
}

/** The activation of `gate`, times `up`. */
function gated({ builder, config }: BlockParts, gate: string, up: string): string {
  if (config.hiddenAct === "silu") return builder.value(SwiGLU, [gate, up], {}, "mlp.gated");
  return builder.value(Mul, [activated(builder, config.hiddenAct, gate), up], {}, "mlp.gated");
}
