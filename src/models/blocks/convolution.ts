import { CachedConv } from "../../ops/cached-conv.ts";
import { CausalConv } from "../../ops/causal-conv.ts";
import { Mul } from "../../ops/mul.ts";
import { SplitColumns } from "../../ops/split-columns.ts";
import type { ConvolutionConfig } from "../config.ts";
import { addCaches, type BlockParts, type Caches, type Layer } from "./layer.ts";

/** A block that convolves along the text, and keeps what it convolves of earlier tokens while decoding. */
export function convolutionLayer(channels: number, build: (parts: BlockParts) => string): Layer {
  return { kind: "convolution", inputs: ["starts"], caches: (tokens) => earlierRows(channels, tokens), build };
}

/**
 * The cache of one text of up to `tokens` tokens. A few rows are enough to go on, but all are needed to go back, as a text does whose end
 * is taken away or whose beginning another one shares.
 */
function earlierRows(channels: number, tokens: number): Caches {
  return new Map([["rows", { dtype: "f32", shape: [tokens, channels] }]]);
}

/**
 * The gated short convolution of x [tokens, hiddenSize] (LFM2): with [b, c, v] = in_proj(x), three times as wide, out_proj(c * conv(b * v)). It
 * begins anew with each text.
 */
export function gatedConvolution(parts: BlockParts, { width, bias }: ConvolutionConfig, x: string): string {
  const { builder, config, scope, project, decoding } = parts;
  const { hiddenSize: size } = config;
  const product = project(x, "conv.in_proj", size, 3 * size, bias);
  const [before, behind, v] = builder.node(
    SplitColumns,
    [product],
    { groups: 1, sizes: [size, size, size] },
    "conv.in_proj.split",
  );
  const gated = builder.value(Mul, [before!, v!], {}, "conv.gated");
  const filters = scope.filters("conv.conv.weight", size, width);
  const added = bias ? [scope.vector("conv.conv.bias", size)] : [];
  const convolve = (): string => {
    if (decoding === null) return builder.value(CausalConv, [gated, filters, "starts", ...added], {}, "conv");
    builder.input("position", "batch", { dtype: "i32", shape: [decoding.texts] });
    const [rows] = addCaches(builder, earlierRows(size, decoding.size), decoding) as [string];
    const [y, next] = builder.node(CachedConv, [gated, filters, rows, "starts", "position", ...added], {}, "conv");
    builder.output({ name: next!, role: "state", updates: rows });
    return y!;
  };
  return project(builder.value(Mul, [behind!, convolve()], {}, "conv.result"), "conv.out_proj", size, size, bias);
}
