import { existsSync, readdirSync, renameSync, rmdirSync, rmSync, statSync } from "node:fs";
import { resolve } from "node:path";
import { verifyChecksums, writeChecksums } from "../../base/files/checksums.ts";
import { UserError } from "../../base/errors.ts";
import type { FloatType } from "../../base/dtype.ts";
import { loadConfig } from "../config/config.ts";
import type { ModelConfig } from "../../models/config.ts";
import { fileError, fileIo, makeFolder, temporaryPath, type FileIo } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import { fromFloat32, toFloat32 } from "../../base/float16.ts";
import { examineWeights } from "../weights/examine.ts";
import { copyCompanions, MAX_SHARD_BYTES, writeWeights } from "../weights/model-folder.ts";
import { openAdapter, type Adapter, type AdapterModule } from "./peft.ts";
import { openModelWeights } from "../weights/model-weights.ts";
import { modulesOf } from "../../models/families/index.ts";
import { readBytes, readFloat32, type TensorEntry, type TensorSource } from "../weights/safetensors.ts";
import { type TensorData } from "../weights/safetensors-write.ts";

export interface MergeOptions {
  readonly base: string;
  readonly adapter: string;
  /** A folder that is new or empty. */
  readonly output: string;
  readonly maxShardBytes?: number;
  readonly io?: FileIo;
}

/**
 * Writes the base model with the adapter added to its weights: W + scale * B A, summed in f32 and rounded once to the
 * weight's own dtype. One tensor is in memory at a time. The output folder appears whole or not at all.
 * @throws {UserError} an adapter of another model, an output folder in use, a full disk
 */
export function mergeAdapter(options: MergeOptions): void {
  const { base, maxShardBytes = MAX_SHARD_BYTES, io = fileIo } = options;
  const output = resolve(options.output);
  if (existsSync(output) && (!statSync(output).isDirectory() || readdirSync(output).length > 0)) {
    throw new UserError(`${options.output} is not an empty folder; choose a new one for the merged model`);
  }
  const config = loadConfig(base);
  const source = openModelWeights(base, config);
  try {
    const adapter = openAdapter(options.adapter, config);
    try {
      // What is damaged must not get checksums of its own.
      for (const folder of [base, options.adapter]) verifyChecksums(folder, { fresh: true });
      for (const { tensors } of [source, adapter.source]) examineWeights({ tensors }, { fresh: true });
      const tensors = mergedTensors(source, adapter, config);
      const draft = temporaryPath(output);
      makeFolder(draft);
      try {
        const companions = copyCompanions(base, draft, io);
        const weights = writeWeights(draft, tensors, maxShardBytes, io);
        writeChecksums(draft, [...companions, ...weights], io);
        publish(draft, output);
      } finally {
        rmSync(draft, { recursive: true, force: true });
      }
    } finally {
      adapter.source.close();
    }
  } finally {
    source.close();
  }
}

function publish(draft: string, output: string): void {
  try {
    if (existsSync(output)) rmdirSync(output);
    renameSync(draft, output);
  } catch (error) {
    throw fileError("write", output, error);
  }
}

/** The base model's tensors, in its order, names and dtypes, with the adapter added when their turn comes. @throws {UserError} */
export function mergedTensors(
  source: TensorSource,
  adapter: Adapter,
  config: Pick<ModelConfig, "family" | "tieWordEmbeddings">,
): TensorData[] {
  const { head } = modulesOf(config);
  for (const name of adapter.modules.keys()) {
    if (source.tensors.has(`${name}.weight`)) continue;
    if (name === head && config.tieWordEmbeddings) {
      throw new UserError(`the adapter changes ${head}, which the base model shares with its embedding; they cannot be merged`);
    }
    throw new UserError(
      `${source.path} has no tensor ${show(`${name}.weight`)}, which the adapter changes; is it the adapter's base model?`,
    );
  }
  return Array.from(source.tensors, ([key, entry]): TensorData => {
    const { name, dtype, shape } = entry;
    if (dtype === null)
      throw new UserError(`${entry.path}: tensor ${show(name)} has dtype ${entry.stored}, which cannot be copied`);
    const module = key.endsWith(".weight") ? adapter.modules.get(key.slice(0, -".weight".length)) : undefined;
    if (!module) return { name, dtype, shape, data: () => readBytes(source, entry) };
    checkShapes(entry, module);
    return { name, dtype, shape, data: () => mergedWeight(source, adapter.source, entry, module) };
  });
}

function checkShapes(weight: TensorEntry, module: AdapterModule): void {
  const fits = weight.shape.length === 2 && weight.shape[0] === module.b.shape[0] && weight.shape[1] === module.a.shape[1];
  if (!fits || !["f32", "bf16", "f16"].includes(weight.dtype ?? "")) {
    throw new UserError(
      `${weight.path}: tensor ${show(weight.name)} is ${weight.stored}[${weight.shape.join(", ")}], the adapter's update is ` +
        `[${module.b.shape[0]}, ${module.a.shape[1]}]; is it the adapter's base model?`,
    );
  }
}

/** W [out, in] + scale * B [out, r] A [r, in]; `sum` holds one row in f64, so the order of the r terms does not show. */
function mergedWeight(base: TensorSource, adapter: TensorSource, entry: TensorEntry, module: AdapterModule): Uint8Array {
  const dtype = entry.dtype as FloatType;
  const weight = toFloat32(readBytes(base, entry), dtype);
  const a = readFloat32(adapter, module.a.name, module.a.shape);
  const b = readFloat32(adapter, module.b.name, module.b.shape);
  const [out, inner] = entry.shape as [number, number];
  const sum = new Float64Array(inner);
  for (let row = 0; row < out; row++) {
    sum.fill(0);
    for (let k = 0; k < module.rank; k++) {
      const factor = b[row * module.rank + k]!;
      const from = k * inner;
      for (let i = 0; i < inner; i++) sum[i]! += factor * a[from + i]!;
    }
    const from = row * inner;
    for (let i = 0; i < inner; i++) weight[from + i] = weight[from + i]! + module.scale * sum[i]!;
  }
  return fromFloat32(weight, dtype);
}
