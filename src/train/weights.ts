import { byteLength, elements, type FloatType } from "../graph/types.ts";
import { toFloat32 } from "../hf/halves.ts";
import { expectTensor, readBytes, readFloat32, type TensorSource } from "../hf/safetensors.ts";
import { createRandom } from "../random.ts";
import type { Executor } from "../runtime/executor.ts";
import type { ParamInfo, Resident } from "../runtime/resident.ts";

const ADAPTER_PREFIX = "base_model.model.";

export function isAdapter(param: ParamInfo): boolean {
  return param.name.startsWith(ADAPTER_PREFIX);
}

/** Type in memory of a frozen weight: as stored. Trainable weights are f32 whatever the checkpoint holds. */
export function storedWeightType(source: TensorSource): (name: string) => FloatType {
  return (name) => (source.tensors.get(name)?.dtype ?? "f32") as FloatType;
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
      const widened = toFloat32(readBytes(source, entry), entry.dtype as FloatType);
      executor.write(address, new Uint8Array(widened.buffer, widened.byteOffset, widened.byteLength));
    }
  });
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
