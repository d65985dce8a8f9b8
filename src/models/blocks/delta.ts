import type { GraphBuilder } from "../../graph/builder.ts";
import type { TensorType } from "../../graph/types.ts";
import { CachedGatedDelta } from "../../ops/cached-gated-delta.ts";
import { CausalConv } from "../../ops/causal-conv.ts";
import { GatedDelta } from "../../ops/gated-delta.ts";
import { Reshape } from "../../ops/reshape.ts";
import { RMSNormalization } from "../../ops/rms-norm.ts";
import { RollingConv } from "../../ops/rolling-conv.ts";
import { JoinColumns, SplitColumns } from "../../ops/split-columns.ts";
import { SwiGLU } from "../../ops/swiglu.ts";
import type { DeltaConfig } from "../config.ts";
import { addCaches, type BlockParts, type Caches, type Layer } from "./layer.ts";
import { activated } from "./mlp.ts";

/** A block that keeps a state of the text, of one size however long the text is. */
export function deltaLayer(delta: DeltaConfig, build: (parts: BlockParts) => string): Layer {
  return { kind: "delta", inputs: ["starts"], caches: () => stateOf(delta), build };
}

const channelsOf = ({ keyHeads, heads, keyDim, valueDim }: DeltaConfig): number => 2 * keyHeads * keyDim + heads * valueDim;

/** The last rows that the convolution looks back at, and the state: a text can go on from its end alone. Each text's part is aligned. */
function stateOf(delta: DeltaConfig): Caches {
  const { heads, keyDim, valueDim, width } = delta;
  const room = (size: number): TensorType => ({ dtype: "f32", shape: [1, Math.ceil(size / 16) * 16] });
  return new Map([
    ...(width > 1 ? [["tail", room((width - 1) * channelsOf(delta))] as const] : []),
    ["state", room(heads * keyDim * valueDim)],
  ]);
}

/**
 * The gated delta rule of x [tokens, hiddenSize] behind a convolution of queries, keys and values; its result is normed head by head and goes through
 * a gate that x gives.
 */
export function gatedDelta(parts: BlockParts, delta: DeltaConfig, x: string): string {
  const { builder, config, scope, tokens, project } = parts;
  const { heads, keyHeads, keyDim, valueDim } = delta;
  const { hiddenSize, normEps: epsilon } = config;
  const values = heads * valueDim;
  const { product, gate, a, b } = (delta.fused ? fusedProducts : products)(parts, delta, x);
  const caches = cachesIn(parts, delta);
  const qkv = activated(builder, config.hiddenAct, convolved(parts, delta, product, caches));
  const inputs = [qkv, a, b, scope.vector("linear_attn.A_log", heads), scope.vector("linear_attn.dt_bias", heads)];
  const result = withState(builder, inputs, { keyHeads, keyDim }, caches);
  const rows = builder.value(Reshape, [result], { shape: [tokens * heads, valueDim] });
  const weight = scope.vector("linear_attn.norm.weight", valueDim);
  const normed = builder.value(RMSNormalization, [rows, weight], { axis: -1, epsilon }, "linear_attn.norm");
  const gated = builder.value(
    SwiGLU,
    [gate, builder.value(Reshape, [normed], { shape: [tokens, values] })],
    {},
    "linear_attn.gated",
  );
  return project(gated, "linear_attn.out_proj", values, hiddenSize, false);
}

/** The values that a layer begins with. */
interface Products {
  /** Queries, keys and values, one behind the other. */
  readonly product: string;
  readonly gate: string;
  readonly a: string;
  readonly b: string;
}

function products({ config: { hiddenSize }, project }: BlockParts, delta: DeltaConfig, x: string): Products {
  const { heads, valueDim } = delta;
  return {
    product: project(x, "linear_attn.in_proj_qkv", hiddenSize, channelsOf(delta), false),
    gate: project(x, "linear_attn.in_proj_z", hiddenSize, heads * valueDim, false),
    b: project(x, "linear_attn.in_proj_b", hiddenSize, heads, false),
    a: project(x, "linear_attn.in_proj_a", hiddenSize, heads, false),
  };
}

/** The same of two matrices, whose rows are apart by key head. */
function fusedProducts({ builder, config: { hiddenSize }, project }: BlockParts, delta: DeltaConfig, x: string): Products {
  const { heads, keyHeads, keyDim, valueDim } = delta;
  const share = heads / keyHeads;
  const split = (module: string, sizes: readonly number[]) => {
    const width = keyHeads * sizes.reduce((sum, size) => sum + size, 0);
    return builder.node(
      SplitColumns,
      [project(x, module, hiddenSize, width, false)],
      { groups: keyHeads, sizes },
      `${module}.split`,
    );
  };
  const [q, k, v, gate] = split("linear_attn.in_proj_qkvz", [keyDim, keyDim, share * valueDim, share * valueDim]);
  const [b, a] = split("linear_attn.in_proj_ba", [share, share]);
  const sizes = [keyHeads * keyDim, keyHeads * keyDim, heads * valueDim];
  const product = builder.value(JoinColumns, [q!, k!, v!], { groups: 1, sizes }, "linear_attn.qkv");
  return { product, gate: gate!, a: a!, b: b! };
}

/** Names of the inputs that hold what is kept of earlier tokens; null within a micro-batch. */
type CacheNames = { readonly tail: string | null; readonly state: string } | null;

function cachesIn({ builder, decoding }: BlockParts, delta: DeltaConfig): CacheNames {
  if (decoding === null) return null;
  builder.input("position", "batch", { dtype: "i32", shape: [decoding.texts] });
  const names = addCaches(builder, stateOf(delta), decoding);
  return { tail: names.length > 1 ? names[0]! : null, state: names.at(-1)! };
}

function convolved({ builder, scope }: BlockParts, delta: DeltaConfig, x: string, caches: CacheNames): string {
  const filters = scope.filters("linear_attn.conv1d.weight", channelsOf(delta), delta.width);
  const tail = caches?.tail ?? null;
  if (tail === null) return builder.value(CausalConv, [x, filters, "starts"], {}, "linear_attn.conv");
  const [y, next] = builder.node(RollingConv, [x, filters, tail, "starts", "position"], {}, "linear_attn.conv");
  builder.output({ name: next!, role: "state", updates: tail });
  return y!;
}

function withState(
  builder: GraphBuilder,
  inputs: readonly string[],
  attrs: { readonly keyHeads: number; readonly keyDim: number },
  caches: CacheNames,
): string {
  const name = "linear_attn.delta";
  if (caches === null) return builder.value(GatedDelta, [...inputs, "starts"], attrs, name);
  const [result, next] = builder.node(CachedGatedDelta, [...inputs, caches.state, "starts", "position"], attrs, name);
  builder.output({ name: next!, role: "state", updates: caches.state });
  return result!;
}
