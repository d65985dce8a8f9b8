import type { Random } from "../../base/random.ts";
import { elements, type Shape } from "../../graph/types.ts";
import { Gather } from "../../ops/gather.ts";
import { Gemm } from "../../ops/gemm.ts";
import type { AdapterPart, EmbeddingLayer, LinearLayer, LowRankPair, PartName, Site } from "./kind.ts";
import type { LowRankSettings, LowRankSetup } from "./low-rank-settings.ts";

/**
 * The low-rank update scale B A of a matrix W [rows, columns] (Hu et al. 2021, https://arxiv.org/abs/2106.09685), as PEFT has it: of a
 * layer A is [rank, columns] and B [rows, rank]; of an embedding, whose table is the layer's transposed, A is [rank, rows] and B
 * [columns, rank]; of E experts A is [E rank, columns], each expert's rows in turn, and B [rows, rank E], every expert's columns for one rank after
 * the other.
 */

export const LOW_RANK_NAMES = {
  linear: [{ suffix: "lora_A.weight", random: true }, { suffix: "lora_B.weight" }],
  head: [{ suffix: "lora_A.weight", random: true }, { suffix: "lora_B.weight" }],
  experts: [{ suffix: "lora_A.weight", random: true }, { suffix: "lora_B.weight" }],
  embedding: [
    { suffix: "lora_embedding_A", transposed: true },
    { suffix: "lora_embedding_B", random: true },
  ],
} as const satisfies Record<Site["layer"], readonly [a: PartName, b: PartName]>;

export function lowRankParts({ layer, rows, columns, experts = 1 }: Site, { rank }: LowRankSetup): [AdapterPart, AdapterPart] {
  const [a, b] = LOW_RANK_NAMES[layer];
  const [inner, outer] = layer === "embedding" ? [rows, columns] : [columns, rows];
  return [
    { ...a, shape: [rank * experts, inner] },
    { ...b, shape: [outer, rank * experts] },
  ];
}

/** The shape of the matrix that a pair of such shapes adapts. */
export function lowRankShape(layer: Site["layer"], shapeOf: (suffix: string) => Shape): [rows: number, columns: number] {
  const [a, b] = LOW_RANK_NAMES[layer].map(({ suffix }) => shapeOf(suffix));
  const [inner = 0, outer = 0] = [a?.[1], b?.[0]];
  return layer === "embedding" ? [inner, outer] : [outer, inner];
}

/** llama.cpp scales a module by the file's alpha over the module's rank. */
export const lowRankUpdate = {
  alpha: ({ rank, alpha, rslora }: LowRankSettings): number => (alpha / (rslora ? Math.sqrt(rank) : rank)) * rank,
  pair({ layer }: Pick<Site, "layer">, { rank, scale }: LowRankSetup): LowRankPair {
    const [a, b] = LOW_RANK_NAMES[layer];
    return { a: a.suffix, b: b.suffix, rank, scale };
  },
};

/** x W^T + b, or without the bias. */
export function product({ builder, x, weight, transposed, bias, module }: Omit<LinearLayer, "parameter">, name = module): string {
  const attrs = { alpha: 1, beta: 1, transA: 0, transB: transposed ? 0 : 1 };
  return builder.value(Gemm, [x, weight, ...(bias === null ? [] : [bias])], attrs, name);
}

/** A of the layer's (dropped) input, [tokens, rank], and B. */
export function lowRank(
  { builder, module, site, parameter, dropped }: Pick<LinearLayer, "builder" | "module" | "site" | "parameter" | "dropped">,
  setup: LowRankSetup,
): { low: string; up: string; scale: number } {
  const [a, b] = lowRankParts(site, setup).map(parameter) as [string, string];
  const low = builder.value(Gemm, [dropped(), a], { alpha: 1, beta: 1, transA: 0, transB: 1 }, `${module}.low`);
  return { low, up: b, scale: setup.scale };
}

/** y + scale (x A^T) B^T. */
export function addUpdate(
  { builder, module }: Pick<LinearLayer, "builder" | "module">,
  y: string,
  { low, up, scale }: { readonly low: string; readonly up: string; readonly scale: number },
): string {
  return builder.value(Gemm, [low, up, y], { alpha: scale, beta: 1, transA: 0, transB: 1 }, `${module}.adapted`);
}

/** Rows of the table, plus scale times the columns of A that `ids` lists, times B^T. */
export function addEmbedding(layer: EmbeddingLayer, setup: LowRankSetup): string {
  const { builder, module, site, ids, rows, parameter } = layer;
  const [a, b] = lowRankParts(site, setup).map(parameter) as [string, string];
  const low = builder.value(Gather, [a, ids], {}, `${module}.low`);
  return addUpdate({ builder, module }, rows, { low, up: b, scale: setup.scale });
}

/**
 * PEFT's first values, which leave the model what it is: of a layer A is Kaiming-uniform with a = sqrt(5), that is uniform in
 * +-1/sqrt(columns), and B zero; of an embedding A is zero and B normal.
 */
export function initialiseLowRank({ suffix, shape }: AdapterPart, random: Random): Float32Array<ArrayBuffer> {
  const values = new Float32Array(elements(shape));
  if (suffix === LOW_RANK_NAMES.linear[0].suffix) {
    const bound = 1 / Math.sqrt(shape[1]!);
    for (let i = 0; i < values.length; i++) values[i] = bound * (2 * random.uniform() - 1);
  } else if (suffix === LOW_RANK_NAMES.embedding[1].suffix) {
    for (let i = 0; i < values.length; i++) values[i] = random.normal();
  }
  return values;
}

/** W += scale times the product of the pair, row by row; a row is summed in f64, so that the order of the terms does not show. */
export function mergeLowRank(
  weight: Float32Array,
  site: Site,
  { rank, scale }: LowRankSetup,
  read: (suffix: string) => Float32Array,
): void {
  const { rows, columns, layer } = site;
  const [a, b] = LOW_RANK_NAMES[layer].map(({ suffix }) => read(suffix)) as [Float32Array, Float32Array];
  // Of row and k, and of k and column: B and A of a layer, A and B of an embedding, transposed.
  const left = layer === "embedding" ? transpose(a, rank, rows) : b;
  const right = layer === "embedding" ? transpose(b, columns, rank) : a;
  const sum = new Float64Array(columns);
  for (let row = 0; row < rows; row++) {
    sum.fill(0);
    for (let k = 0; k < rank; k++) {
      const factor = left[row * rank + k]!;
      const from = k * columns;
      for (let i = 0; i < columns; i++) sum[i]! += factor * right[from + i]!;
    }
    const from = row * columns;
    for (let i = 0; i < columns; i++) weight[from + i] = weight[from + i]! + scale * sum[i]!;
  }
}

/** x [rows, columns] as [columns, rows]. */
export function transpose(x: Float32Array, rows: number, columns: number): Float32Array<ArrayBuffer> {
  const y = new Float32Array(x.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) y[column * rows + row] = x[row * columns + column]!;
  return y;
}
