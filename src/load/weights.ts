import { byteLength, elements, type Quantised, type Shape, type WeightType } from "../graph/types.ts";
import type { FloatType } from "../base/dtype.ts";
import { UserError } from "../base/errors.ts";
import { expectTensor, type TensorEntry, type TensorSource } from "../hf/weights/safetensors.ts";
import { LINEAR_MODULES, TABLE_MODULES } from "../models/families/index.ts";
import { isAdapter } from "../models/adapters/names.ts";
import { isScales, scalesOf } from "../models/linear.ts";
import type { WeightTypes } from "../models/parts.ts";
import { formatOfCodes, matrixShape, QUANTISED_BLOCK } from "../ops/dequantize.ts";
import { type Executor, fillPieces } from "../runtime/executor.ts";
import type { ParamInfo, Resident } from "../runtime/resident.ts";
import { type Conversion, createConverter } from "./stored/convert.ts";

/** Type in memory of a frozen weight: as stored. Trainable weights are f32 whatever the checkpoint holds. */
export function storedWeightType(source: TensorSource): (name: string) => FloatType {
  return (name) => (source.tensors.get(name)?.dtype ?? "f32") as FloatType;
}

/** How frozen weights are to lie in memory. */
export interface WeightStorage {
  /** The type of frozen weights in memory that are not quantised, and of the values of an executor that computes in it; by default weights are as stored, and all else is f32. */
  readonly dtype?: FloatType | undefined;
  /** The format of the blocks' linear layers. */
  readonly quantize?: Quantised | "off" | undefined;
  /** Embedding and head as 8-bit integers. */
  readonly quantizeEmbedding?: boolean | undefined;
}

/** Returns what a configuration or flags say of it. */
export function storageOf({ dtype, quantize, quantizeEmbedding }: WeightStorage): WeightStorage {
  return { dtype, quantize, quantizeEmbedding };
}

/**
 * Returns the types of frozen weights in an executor's memory; weights with whole blocks in their rows are quantised. What is stored in a half
 * type that the executor does not have is widened.
 * @throws {UserError} when it does not have the type that was asked for
 */
export function weightTypeOf(
  executor: Pick<Executor, "halves">,
  source: TensorSource,
  { dtype, quantize = "off", quantizeEmbedding = false }: WeightStorage,
): WeightTypes {
  if (dtype !== undefined) expectType(executor, dtype);
  const stored = dtype === undefined ? storedWeightType(source) : () => dtype;
  const quantised = (name: string): Quantised | null => {
    const module = name.split(".").at(-2)!;
    if ((source.tensors.get(name)?.shape[1] ?? 1) % QUANTISED_BLOCK !== 0) return null;
    if (quantize !== "off" && LINEAR_MODULES.includes(module)) return quantize;
    return quantizeEmbedding && TABLE_MODULES.includes(module) ? "q8" : null;
  };
  const meant = (name: string): WeightType => quantised(name) ?? stored(name);
  const inMemory = (name: string): WeightType => {
    const type = stored(name);
    return quantised(name) ?? (holds(executor, type) ? type : "f32");
  };
  return Object.assign(inMemory, { meant });
}

/** True if an executor's memory may have weights of a type. To know it may take a trial on its device. */
function holds(executor: Pick<Executor, "halves">, dtype: FloatType): boolean {
  if (dtype === "f32") return true;
  const { halves } = executor;
  return halves === "f16" ? dtype === "f16" : halves !== "none";
}

/** @throws {UserError} a type that an executor does not have */
function expectType(executor: Pick<Executor, "halves">, dtype: FloatType): void {
  if (holds(executor, dtype)) return;
  const has = executor.halves === "f16" ? "f32 and f16" : "f32 alone (on webgpu f16 wants an adapter with shader-f16)";
  throw new UserError(`--dtype ${dtype} cannot be had on this device, which has ${has}; use another --dtype or --device`);
}

/** Returns what programs compute in on an executor, when `dtype` is asked for. */
export function computeType(executor: Pick<Executor, "halves">, dtype: FloatType | undefined): FloatType {
  if (dtype === undefined || dtype === "f32") return "f32";
  const { halves } = executor;
  return halves === "all" || halves === dtype ? dtype : "f32";
}

/**
 * Reads the base model's weights into their places, each straight from the file where no conversion is needed; others piece by piece.
 * @throws {UserError} missing tensor, wrong shape or dtype
 */
export function loadWeights(executor: Executor, resident: Pick<Resident, "params" | "param">, source: TensorSource): void {
  const params = resident.params.filter((param) => !isAdapter(param) && !isScales(param));
  // All are checked before the first byte is read.
  const entries = params.map((param) => expectTensor(source, param.name, shapeOf(param)));
  const converter = createConverter();
  params.forEach((param, i) => {
    const entry = entries[i]!;
    const conversion = conversionOf(entry, param);
    let address = resident.param.get(param.name);
    // It comes into a window when it is read.
    if (address === undefined) return;
    if (conversion === null) {
      fillPieces(executor, address, byteLength(param.type), (target, at) => source.read(entry, target, at));
      return;
    }
    let scalesAt = resident.param.get(scalesOf(param.name)) ?? 0;
    const range = { begin: 0, end: elements(entry.shape) };
    for (const { values, scales } of converter.pieces(conversion, range, (target, from) => source.read(entry, target, from))) {
      executor.write(address, values);
      address += values.length;
      if (scales === null) continue;
      executor.write(scalesAt, scales);
      scalesAt += scales.length;
    }
  });
}

/** Returns how a tensor becomes a parameter in memory; null: it is the same bytes. */
export function conversionOf({ name, path, dtype, part }: TensorEntry, { type }: ParamInfo): Conversion | null {
  const to = formatOfCodes(type) ?? (type.dtype as FloatType);
  return to === dtype && !part ? null : { name, path, stored: dtype as FloatType, to };
}

/** Shape of a parameter in the checkpoint, which knows of no scales. */
export function shapeOf({ type }: ParamInfo): Shape {
  const format = formatOfCodes(type);
  return format === null ? type.shape : matrixShape(format, type.shape);
}
