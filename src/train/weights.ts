import { UserError } from "../errors.ts";
import { byteLength, DTYPE_BYTES, elements, type FloatType } from "../graph/types.ts";
import { fromFloat32, toFloat32 } from "../hf/halves.ts";
import { expectTensor, readFloat32, type TensorEntry, type TensorSource } from "../hf/safetensors.ts";
import { createRandom } from "../random.ts";
import { type Address, type Executor, PIECE } from "../runtime/executor.ts";
import type { ParamInfo, Resident } from "../runtime/resident.ts";

const ADAPTER_PREFIX = "base_model.model.";

export function isAdapter(param: ParamInfo): boolean {
  return param.name.startsWith(ADAPTER_PREFIX);
}

/** Type in memory of a frozen weight: as stored. Trainable weights are f32 whatever the checkpoint holds. */
export function storedWeightType(source: TensorSource): (name: string) => FloatType {
  return (name) => (source.tensors.get(name)?.dtype ?? "f32") as FloatType;
}

/** Of frozen weights: `dtype`, or as stored. */
export function weightTypeOf(source: TensorSource, dtype: FloatType | undefined): (name: string) => FloatType {
  return dtype === undefined ? storedWeightType(source) : () => dtype;
}

/**
 * Reads the base model's weights into their places, each straight from the file where no conversion is needed.
 * @throws {UserError} missing tensor, wrong shape or dtype
 */
export function loadWeights(executor: Executor, resident: Resident, source: TensorSource): void {
  const params = resident.params.filter((param) => !isAdapter(param));
  // All are checked before the first byte is read.
  const entries = params.map((param) => expectTensor(source, param.name, param.type.shape));
  params.forEach((param, i) => {
    const entry = entries[i]!;
    const address = resident.param.get(param.name)!;
    if (entry.dtype === param.type.dtype) {
      executor.fill(address, byteLength(param.type), (target) => source.read(entry, target));
    } else {
      writeConverted(executor, address, source, entry, param.type.dtype as FloatType);
    }
  });
}

const LARGEST_F16 = 65504;

/**
 * Reads a tensor and writes it in another type, piece by piece.
 * @throws {UserError} a number that f16 has no place for
 */
function writeConverted(executor: Executor, address: Address, source: TensorSource, entry: TensorEntry, dtype: FloatType): void {
  const stored = entry.dtype as FloatType;
  const piece = new Uint8Array(Math.min(PIECE / 2, entry.bytes));
  for (let from = 0; from < entry.bytes; from += piece.length) {
    const bytes = piece.subarray(0, Math.min(piece.length, entry.bytes - from));
    source.read(entry, bytes, from);
    const values = toFloat32(bytes, stored);
    const tooLarge =
      dtype === "f16" ? values.find((value) => Math.abs(value) > LARGEST_F16 && Number.isFinite(value)) : undefined;
    if (tooLarge !== undefined) {
      throw new UserError(
        `${source.path}: ${entry.name} holds ${tooLarge}, beyond f16's largest number ${LARGEST_F16}; use --dtype bf16`,
      );
    }
    executor.write(address + (from / DTYPE_BYTES[stored]) * DTYPE_BYTES[dtype], fromFloat32(values, dtype));
  }
}

/**
 * PEFT's initialisation of LoRA: A is Kaiming-uniform with a = sqrt(5), that is uniform in +-1/sqrt(in), and B zero, so
 * that the adapted model starts as the base model. Seeded per parameter name.
 */
export function initialiseAdapter(executor: Executor, resident: Resident, seed: number): void {
  for (const param of resident.params.filter(isAdapter)) {
    const values = new Float32Array(elements(param.type.shape));
    if (param.name.endsWith(".lora_A.weight")) {
      const random = createRandom(seed, param.name);
      const bound = 1 / Math.sqrt(param.type.shape[1]!);
      for (let i = 0; i < values.length; i++) values[i] = bound * (2 * random.uniform() - 1);
    }
    executor.write(resident.param.get(param.name)!, new Uint8Array(values.buffer));
  }
}

/** Reads an adapter's weights into their places. @throws {UserError} missing tensor, wrong shape or dtype */
export function loadAdapter(executor: Executor, resident: Resident, source: TensorSource): void {
  for (const param of resident.params.filter(isAdapter)) {
    const values = readFloat32(source, param.name, param.type.shape);
    executor.write(resident.param.get(param.name)!, new Uint8Array(values.buffer));
  }
}
