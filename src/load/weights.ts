import { UserError } from "../base/errors.ts";
import { byteLength, elements, type Quantised, type Shape, type WeightType } from "../graph/types.ts";
import { DTYPE_BYTES, type FloatType } from "../base/dtype.ts";
import { narrow, widen } from "../base/float16.ts";
import { expectTensor, type TensorEntry, type TensorSource } from "../hf/weights/safetensors.ts";
import { LINEAR_MODULES, TABLE_MODULES } from "../models/families/index.ts";
import { isAdapter } from "../models/adapters/names.ts";
import { isScales, scalesOf } from "../models/linear.ts";
import { formatOfCodes, matrixShape, QUANTISED_BLOCK } from "../ops/dequantize.ts";
import { type Address, type Executor, PIECE } from "../runtime/executor.ts";
import type { ParamInfo, Resident } from "../runtime/resident.ts";
import { createQuantiser, PIECE_ELEMENTS, type Quantiser } from "../wasm/quantiser.ts";

/** Type in memory of a frozen weight: as stored. Trainable weights are f32 whatever the checkpoint holds. */
export function storedWeightType(source: TensorSource): (name: string) => FloatType {
  return (name) => (source.tensors.get(name)?.dtype ?? "f32") as FloatType;
}

/** How frozen weights are to lie in memory. */
export interface WeightStorage {
  /** The type of frozen weights in memory that are not quantised, and of the values of an executor with `halves: "all"`; by default weights are as stored, and all else is f32. */
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

/** Returns the types of frozen weights in an executor's memory; weights with whole blocks in their rows are quantised. */
export function weightTypeOf(
  { halves }: Pick<Executor, "halves">,
  source: TensorSource,
  { dtype, quantize = "off", quantizeEmbedding = false }: WeightStorage,
): (name: string) => WeightType {
  const stored = dtype === undefined ? storedWeightType(source) : () => dtype;
  const float = halves === "none" ? () => "f32" as const : stored;
  return (name) => {
    const module = name.split(".").at(-2)!;
    if ((source.tensors.get(name)?.shape[1] ?? 1) % QUANTISED_BLOCK !== 0) return float(name);
    if (quantize !== "off" && LINEAR_MODULES.includes(module)) return quantize;
    return quantizeEmbedding && TABLE_MODULES.includes(module) ? "q8" : float(name);
  };
}

/** Returns what programs compute in on an executor, when `dtype` is asked for. */
export function computeType({ halves }: Pick<Executor, "halves">, dtype: FloatType | undefined): FloatType {
  return halves === "all" ? (dtype ?? "f32") : "f32";
}

/**
 * Reads the base model's weights into their places, each straight from the file where no conversion is needed; others piece by piece.
 * @throws {UserError} missing tensor, wrong shape or dtype
 */
export function loadWeights(executor: Executor, resident: Resident, source: TensorSource): void {
  const params = resident.params.filter((param) => !isAdapter(param) && !isScales(param));
  // All are checked before the first byte is read.
  const entries = params.map((param) => expectTensor(source, param.name, shapeOf(param)));
  let quantiser: Quantiser | null = null;
  params.forEach((param, i) => {
    const entry = entries[i]!;
    const address = resident.param.get(param.name)!;
    const format = formatOfCodes(param.type);
    if (format !== null) {
      const scales = resident.param.get(scalesOf(param.name))!;
      writeQuantised(executor, { codes: address, scales }, source, entry, format, (quantiser ??= createQuantiser()));
    } else if (entry.dtype === param.type.dtype) {
      executor.fill(address, byteLength(param.type), (target) => source.read(entry, target));
    } else {
      writeConverted(executor, address, source, entry, param.type.dtype as FloatType);
    }
  });
}

/** Shape of a parameter in the checkpoint, which knows of no scales. */
export function shapeOf({ type }: ParamInfo): Shape {
  const format = formatOfCodes(type);
  return format === null ? type.shape : matrixShape(format, type.shape);
}

/**
 * Reads a matrix and writes it quantised, piece by piece in the same memory.
 * @throws {UserError} a number that is not finite
 */
function writeQuantised(
  executor: Executor,
  to: { readonly codes: Address; readonly scales: Address },
  source: TensorSource,
  entry: TensorEntry,
  format: Quantised,
  { input, run }: Quantiser,
): void {
  const stored = entry.dtype as FloatType;
  const all = elements(entry.shape);
  let { codes: codesAt, scales: scalesAt } = to;
  for (let at = 0; at < all; at += PIECE_ELEMENTS) {
    const count = Math.min(PIECE_ELEMENTS, all - at);
    source.read(entry, input.subarray(0, count * DTYPE_BYTES[stored]), at * DTYPE_BYTES[stored]);
    const { codes, scales } = run(format, stored, count);
    if (!new Float32Array(scales.buffer, scales.byteOffset, scales.length / DTYPE_BYTES.f32).every(Number.isFinite)) {
      throw new UserError(`${source.path}: ${entry.name} holds a number that is not finite, which --quantize has no place for`);
    }
    executor.write(codesAt, codes);
    executor.write(scalesAt, scales);
    codesAt += codes.length;
    scalesAt += scales.length;
  }
}

const LARGEST_F16 = 65504;

/**
 * Reads a tensor and writes it in another type, piece by piece in the same memory.
 * @throws {UserError} a number that f16 has no place for
 */
function writeConverted(executor: Executor, address: Address, source: TensorSource, entry: TensorEntry, dtype: FloatType): void {
  const stored = entry.dtype as FloatType;
  const count = PIECE / DTYPE_BYTES.f32;
  const values = new Float32Array(count);
  const halves = new Uint16Array(count);
  for (let at = 0; at < elements(entry.shape); at += count) {
    const piece = values.subarray(0, Math.min(count, elements(entry.shape) - at));
    const half = halves.subarray(0, piece.length);
    source.read(entry, bytesOf(stored === "f32" ? piece : half), at * DTYPE_BYTES[stored]);
    if (stored !== "f32") widen(half, stored, piece);
    const tooLarge = dtype === "f16" ? piece.find((value) => Math.abs(value) > LARGEST_F16 && Number.isFinite(value)) : undefined;
    if (tooLarge !== undefined) {
      throw new UserError(
        `${source.path}: ${entry.name} holds ${tooLarge}, beyond f16's largest number ${LARGEST_F16}; use --dtype bf16`,
      );
    }
    if (dtype !== "f32") narrow(piece, dtype, half);
    executor.write(address + at * DTYPE_BYTES[dtype], bytesOf(dtype === "f32" ? piece : half));
  }
}

const bytesOf = ({ buffer, byteOffset, byteLength }: Float32Array | Uint16Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);
