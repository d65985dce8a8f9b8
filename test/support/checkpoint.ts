import { rmSync } from "node:fs";
import { join } from "node:path";
import { type FloatType } from "../../src/base/dtype.ts";
import { fromFloat32 } from "../../src/base/float16.ts";
import { byteLength } from "../../src/graph/types.ts";
import { modelTensors } from "../../src/gguf/tensors.ts";
import { writeGguf } from "../../src/gguf/write.ts";
import { mergedParameters } from "../../src/hf/peft/merge.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { writeWeights } from "../../src/hf/weights/model-folder.ts";
import { openModelWeights } from "../../src/gguf/read/open-weights.ts";
import { openSafetensors, readFloat32, type TensorSource } from "../../src/hf/weights/safetensors.ts";
import { adapterTuning } from "../../src/load/adapter.ts";
import { createWeightReader } from "../../src/load/stored/reader.ts";
import type { StoredWeights } from "../../src/load/stored/stored-weights.ts";
import { loadWeights, type WeightStorage, weightTypeOf } from "../../src/load/weights.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { collectParams, type ParamInfo, reserveResident } from "../../src/runtime/resident.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { TINY_MODEL, writeTinyModel } from "./cli.ts";

/** Blocks with whole rows to quantise, and an embedding of more than two pieces, the last of which is short. */
const SHAPE = { vocab_size: 8195, hidden_size: 64, head_dim: 16, intermediate_size: 128, num_hidden_layers: 2 };

/** A checkpoint of random weights of one type, in shards of at most `shardBytes`. */
export function writeCheckpoint(folder: string, dtype: FloatType, shardBytes = Infinity): string {
  writeTinyModel(folder, { ...TINY_MODEL, ...SHAPE });
  const source = openSafetensors(folder);
  const tensors = [...source.tensors.values()].map(({ name, shape }) => {
    const bytes = fromFloat32(readFloat32(source, name, shape), dtype);
    return { name, dtype, shape, data: dtype === "f32" ? new Float32Array(bytes.buffer) : new Uint16Array(bytes.buffer) };
  });
  source.close();
  rmSync(join(folder, "model.safetensors"));
  writeWeights(folder, tensors, shardBytes);
  return folder;
}

/** The same as a GGUF file of blocks of 8 bits. */
export function writeGgufCheckpoint(folder: string): string {
  writeCheckpoint(folder, "f32");
  const config = loadConfig(folder);
  const source = openModelWeights(folder, config);
  const { tensors } = mergedParameters(source, null, config);
  writeGguf(join(folder, "model.gguf"), new Map(), modelTensors(config, tensors, source, "q8_0"));
  source.close();
  rmSync(join(folder, "model.safetensors"));
  return folder;
}

/** A checkpoint with the parameters of its segments, as they lie in memory. */
export interface Checkpoint {
  readonly source: TensorSource;
  readonly groups: readonly (readonly ParamInfo[])[];
  /** What `loadWeights` puts into an executor's memory, by parameter. */
  inMemory(): Promise<Map<string, Uint8Array>>;
}

export function openCheckpoint(folder: string, storage: WeightStorage): Checkpoint {
  const config = loadConfig(folder);
  const source = openModelWeights(folder, config);
  const weightType = weightTypeOf({ halves: "weights" }, source, storage);
  const segments = buildSegments(config, { tokens: 4, tuning: adapterTuning(null, config), weightType });
  const params = new Map(collectParams(segments).map((param) => [param.name, param]));
  return {
    source,
    groups: segments.map((segment) => [...segment.params.values()].flatMap((name) => params.get(name) ?? [])),
    async inMemory() {
      const executor = await createWasmExecutor({ threads: 1 });
      const resident = reserveResident(executor, segments);
      loadWeights(executor, resident, source);
      const bytes = resident.params.map(
        ({ name, type }) => [name, executor.read(resident.param.get(name)!, byteLength(type))] as const,
      );
      executor.close();
      return new Map(bytes);
    },
  };
}

/** All parameters as a thread reads them. */
export function readAll({ files, places }: Pick<StoredWeights, "files" | "places">): Map<string, Uint8Array> {
  const reader = createWeightReader(files);
  return new Map(
    [...places].map(([name, place]) => {
      const bytes = new Uint8Array(place.bytes);
      reader.read(place, bytes);
      return [name, bytes];
    }),
  );
}
