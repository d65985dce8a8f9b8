import type { GraphBuilder } from "../graph/builder.ts";
import type { Quantised, TensorType, WeightType } from "../graph/types.ts";
import { Cast } from "../ops/cast.ts";
import { Dequantize, isQuantised, quantisedTypes } from "../ops/dequantize.ts";
import { Gather } from "../ops/gather.ts";
import { Gemm } from "../ops/gemm.ts";
import { PhiloxDropout } from "../ops/dropout.ts";

/** Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685): y += scale * (dropout(x) A^T) B^T. */
export interface Lora {
  readonly method: "lora";
  readonly rank: number;
  /** alpha / rank (or alpha / sqrt(rank) with rsLoRA). */
  readonly scale: number;
  readonly dropout: number;
  /** Module names: `q_proj`, `down_proj`, ... */
  readonly targets: ReadonlySet<string>;
  /** Which modules of these names have an adapter, by full name (`model.layers.3.self_attn.q_proj`); without it, all. */
  readonly adapts?: (module: string) => boolean;
}

export interface FullTuning {
  readonly method: "full";
  /** Which weights are trained, by checkpoint name; without it, all. */
  readonly trains?: (name: string) => boolean;
}

export type Tuning = Lora | FullTuning;

/** ONNX number of float32, for `Cast`. */
const ONNX_FLOAT = 1;

const SCALES = ".scales";

/** Name of the parameter that holds the scales of a quantised one. */
export function scalesOf(name: string): string {
  return name + SCALES;
}

export function isScales({ name }: { readonly name: string }): boolean {
  return name.endsWith(SCALES);
}

/** Declares weights as graph inputs and remembers the checkpoint name of each. */
export class ParamScope {
  readonly names = new Map<string, string>();
  readonly trainable = new Set<string>();

  constructor(
    readonly builder: GraphBuilder,
    /** Prefix of the checkpoint names: `model.layers.3.`. */
    readonly prefix: string,
    readonly tuning: Tuning,
    /** Type in memory of a weight matrix, by checkpoint name. */
    readonly weightType: (name: string) => WeightType,
  ) {}

  /** A vector (norm weight, bias): always f32. */
  vector(local: string, size: number): string {
    const name = this.prefix + local;
    return this.declare(local, name, { dtype: "f32", shape: [size] }, this.trains(name));
  }

  /** A matrix [rows, columns] as an f32 value; a frozen one may lie in memory as bf16 or f16, or quantised. */
  matrix(local: string, shape: readonly [number, number], name = this.prefix + local): string {
    const isTrained = this.trains(name);
    const dtype = isTrained ? "f32" : this.weightType(name);
    if (isQuantised(dtype)) return this.builder.value(Dequantize, this.quantised(local, name, dtype, shape), {}, `${local}.f32`);
    const param = this.declare(local, name, { dtype, shape }, isTrained);
    return dtype === "f32" ? param : this.builder.value(Cast, [param], { to: ONNX_FLOAT }, `${local}.f32`);
  }

  /** The rows of a table [vocabulary, columns] that `ids` lists, as f32. Of a quantised table no others are widened. */
  rows(local: string, shape: readonly [number, number], ids: string): string {
    const name = this.prefix + local;
    const type = this.trains(name) ? "f32" : this.weightType(name);
    if (!isQuantised(type)) return this.builder.value(Gather, [this.matrix(local, shape), ids], {}, "y");
    const parts = this.quantised(local, name, type, shape).map((part) =>
      this.builder.value(Gather, [part, ids], {}, `${part}.rows`),
    );
    return this.builder.value(Dequantize, parts, {}, "y");
  }

  /** Codes and scales. */
  private quantised(local: string, name: string, format: Quantised, shape: readonly [number, number]): [string, string] {
    const { codes, scales } = quantisedTypes(format, shape);
    return [this.declare(local, name, codes, false), this.declare(`${local}.scales`, scalesOf(name), scales, false)];
  }

  adapter(local: string, shape: readonly [number, number]): string {
    return this.declare(local, `base_model.model.${this.prefix}${local}.weight`, { dtype: "f32", shape }, true);
  }

  private trains(name: string): boolean {
    return this.tuning.method === "full" && (this.tuning.trains?.(name) ?? true);
  }

  private declare(local: string, name: string, type: TensorType, trainable: boolean): string {
    this.names.set(local, name);
    if (trainable) this.trainable.add(local);
    return this.builder.input(local, "param", type);
  }
}

export interface LinearSpec {
  /** `self_attn.q_proj`: the checkpoint holds `<module>.weight` and `<module>.bias`. */
  readonly module: string;
  readonly inFeatures: number;
  readonly outFeatures: number;
  readonly bias: boolean;
  /** Which dropout mask of the segment this layer draws. */
  readonly site: number;
}

/** y [T, out] = x W^T + b, with its adapter when the module is a target. `x` is [T, in]. */
export function linear(scope: ParamScope, x: string, spec: LinearSpec): string {
  const { builder, tuning } = scope;
  const { module, inFeatures, outFeatures } = spec;
  const weight = scope.matrix(`${module}.weight`, [outFeatures, inFeatures]);
  const bias = spec.bias ? [scope.vector(`${module}.bias`, outFeatures)] : [];
  const product = { alpha: 1, beta: 1, transA: 0, transB: 1 };
  const y = builder.value(Gemm, [x, weight, ...bias], product, module);
  if (tuning.method === "full" || !tuning.targets.has(module.split(".").at(-1)!)) return y;
  if (tuning.adapts && !tuning.adapts(scope.prefix + module)) return y;

  const a = scope.adapter(`${module}.lora_A`, [tuning.rank, inFeatures]);
  const b = scope.adapter(`${module}.lora_B`, [outFeatures, tuning.rank]);
  const dropped =
    tuning.dropout > 0
      ? builder.value(PhiloxDropout, [x, "rng", "segment"], { probability: tuning.dropout, site: spec.site }, `${module}.dropout`)
      : x;
  const low = builder.value(Gemm, [dropped, a], product, `${module}.low`);
  return builder.value(Gemm, [low, b, y], { ...product, alpha: tuning.scale }, `${module}.adapted`);
}
