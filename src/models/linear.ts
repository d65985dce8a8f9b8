import { UserError } from "../base/errors.ts";
import type { GraphBuilder } from "../graph/builder.ts";
import type { Quantised, TensorType, WeightType } from "../graph/types.ts";
import { Cast } from "../ops/cast.ts";
import { Dequantize, isQuantised, quantisedTypes } from "../ops/dequantize.ts";
import { Gather } from "../ops/gather.ts";
import { PhiloxDropout } from "../ops/dropout.ts";
import { adapterKind } from "./adapters/index.ts";
import type { AdapterKind, AdapterPart, LinearLayer, Site } from "./adapters/kind.ts";
import { product } from "./adapters/low-rank.ts";
import { partName, wholeName } from "./adapters/names.ts";
import { hasAdapters, type Tuning } from "./tuning.ts";

/** ONNX number of float32, for `Cast`. */
const ONNX_FLOAT = 1;

const SCALES = ".scales";

/** Name of the parameter that holds the scales of a quantised one. */
export function scalesOf(name: string): string {
  return name + SCALES;
}

/** Name of the quantised parameter that scales belong to; any other name as it is. */
export function matrixOf(name: string): string {
  return isScales({ name }) ? name.slice(0, -SCALES.length) : name;
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
    return this.numbers(local, [size]);
  }

  /** A vector that no method trains: f32. */
  constant(local: string, size: number): string {
    return this.declare(local, this.resolve(local).name, { dtype: "f32", shape: [size] }, false);
  }

  /** A filter of `width` taps for each channel [channels, 1, width]: always f32. */
  filters(local: string, channels: number, width: number): string {
    return this.numbers(local, [channels, 1, width]);
  }

  /** Numbers that are no operand of a product, of any shape: always f32. */
  numbers(local: string, shape: readonly number[]): string {
    const { name, isTrained } = this.resolve(local);
    return this.declare(local, name, { dtype: "f32", shape }, isTrained);
  }

  /**
   * A matrix [rows, columns] as an f32 value; a frozen one may lie in memory as bf16 or f16, or quantised.
   * @param stored name in the checkpoint, where that is another one: of a matrix that is used in two places
   */
  matrix(local: string, shape: readonly [number, number], stored = this.prefix + local): string {
    const { name, isTrained } = this.resolve(local, stored);
    const dtype = isTrained ? "f32" : this.weightType(name);
    if (isQuantised(dtype)) return this.builder.value(Dequantize, this.quantised(local, name, dtype, shape), {}, `${local}.f32`);
    const param = this.declare(local, name, { dtype, shape }, isTrained);
    return dtype === "f32" ? param : this.builder.value(Cast, [param], { to: ONNX_FLOAT }, `${local}.f32`);
  }

  /**
   * The rows of a table [vocabulary, columns] that `ids` lists, as f32. Of a quantised table no others are widened.
   * @param stored see `matrix`
   */
  rows(local: string, shape: readonly [number, number], ids: string, stored = this.prefix + local): string {
    const { name, isTrained } = this.resolve(local, stored);
    const type = isTrained ? "f32" : this.weightType(name);
    if (!isQuantised(type)) return this.builder.value(Gather, [this.matrix(local, shape, stored), ids], {}, "y");
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

  /** The adapter of a module of this segment; null: it has none. */
  adapterOf(module: string): { readonly kind: AdapterKind; readonly setup: object } | null {
    const { tuning } = this;
    const setup = hasAdapters(tuning) ? tuning.adapts(this.prefix + module) : null;
    return setup && { kind: adapterKind(tuning.method), setup };
  }

  /** Tells whether the parameters of adapters stay as they are while a program runs. */
  get resting(): boolean {
    return hasAdapters(this.tuning) && (this.tuning.frozen || this.tuning.resting === true);
  }

  /** Declares parts of a module's adapter, each once. */
  parametersOf(module: string): (part: AdapterPart) => string {
    const declared = new Map<string, string>();
    return ({ suffix, shape, transposed, random }) => {
      let value = declared.get(suffix);
      if (value === undefined) {
        const type: TensorType = { dtype: "f32", shape: transposed ? shape.toReversed() : shape };
        const local = `${module}.${suffix.replace(/\.weight$/, "")}`;
        const { tuning } = this;
        const isTrained = hasAdapters(tuning) && !tuning.frozen && !(tuning.freezeA && random);
        value = this.declare(local, partName(this.prefix + module, suffix), type, isTrained);
        declared.set(suffix, value);
      }
      return value;
    };
  }

  /** Under which name a parameter is declared, and whether it is trained. */
  private resolve(local: string, stored = this.prefix + local): { readonly name: string; readonly isTrained: boolean } {
    const { tuning } = this;
    if (!hasAdapters(tuning)) return { name: stored, isTrained: tuning.trains?.(stored) ?? true };
    const own = this.prefix + local;
    if (!tuning.trains?.(own)) return { name: stored, isTrained: false };
    const isAdapted = this.adapterOf(local.slice(0, local.lastIndexOf("."))) !== null;
    return { name: wholeName(own, isAdapted), isTrained: !tuning.frozen };
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
  /** True if the checkpoint has the matrix transposed, [inFeatures, outFeatures]. */
  readonly transposed?: boolean;
}

/** y [T, out] = x W^T + b, with its adapter when the module is a target. `x` is [T, in]. */
export function linear(scope: ParamScope, x: string, spec: LinearSpec): string {
  const { builder } = scope;
  const { module, inFeatures, outFeatures, transposed = false } = spec;
  const weight = scope.matrix(`${module}.weight`, transposed ? [inFeatures, outFeatures] : [outFeatures, inFeatures]);
  const bias = spec.bias ? scope.vector(`${module}.bias`, outFeatures) : null;
  const site: Site = { layer: "linear", rows: outFeatures, columns: inFeatures };
  const layer: LinearLayer = {
    ...adaptedInput(scope, x, module, site, spec.site),
    builder,
    weight,
    transposed,
    bias,
    resting: scope.resting,
  };
  const adapter = scope.adapterOf(module);
  if (transposed && adapter !== null && !adapter.kind.update)
    throw new UserError(
      `${adapter.kind.title} of ${scope.prefix}${module} is not supported, whose matrix is stored transposed; choose --method lora`,
    );
  return adapter === null ? product(layer) : adapter.kind.linear(layer, adapter.setup);
}

/** Returns what a kind of adapter takes of any layer. */
export function adaptedInput(
  scope: ParamScope,
  x: string,
  module: string,
  site: Site,
  mask: number,
): Pick<LinearLayer, "builder" | "module" | "site" | "x" | "parameter" | "dropped"> {
  const { builder, tuning } = scope;
  const probability = hasAdapters(tuning) ? tuning.dropout : 0;
  return {
    builder,
    module,
    site,
    x,
    parameter: scope.parametersOf(module),
    dropped: () =>
      probability > 0 ? builder.value(PhiloxDropout, [x, "rng", "segment"], { probability, site: mask }, `${module}.dropout`) : x,
  };
}

/** Rows of the embedding [vocabulary, features] that `ids` lists, with its adapter when it is a target: f32[T, features]. */
export function embeddingRows(
  scope: ParamScope,
  module: string,
  [rows, columns]: readonly [number, number],
  ids: string,
): string {
  const table = scope.rows(`${module}.weight`, [rows, columns], ids);
  const adapter = scope.adapterOf(module);
  if (adapter === null) return table;
  const { kind, setup } = adapter;
  if (!kind.embedding) throw new Error(`${kind.name} does not adapt embeddings`);
  const site: Site = { layer: "embedding", rows, columns };
  return kind.embedding({ builder: scope.builder, module, site, parameter: scope.parametersOf(module), ids, rows: table }, setup);
}
