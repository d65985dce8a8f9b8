import { elements } from "../graph/types.ts";
import type { ModelConfig } from "../models/config.ts";
import { type Adapter, checkModules } from "../hf/peft/peft.ts";
import { readFloat32 } from "../hf/weights/safetensors.ts";
import type { Lora } from "../models/linear.ts";
import type { Executor } from "../runtime/executor.ts";
import type { Resident } from "../runtime/resident.ts";
import { isAdapter } from "./weights.ts";

/** Tuning without a target: the weights alone, in the dtype that the checkpoint has. */
const NO_ADAPTER: Lora = { method: "lora", rank: 1, scale: 1, dropout: 0, targets: new Set() };

/**
 * One rank and scale for all modules of an adapter; `writeAdapterWeights` makes up for those that have another.
 * @throws {UserError} an adapter of other modules than the blocks' linear layers
 */
export function adapterTuning(adapter: Adapter | null, config: ModelConfig): Lora {
  if (adapter === null) return NO_ADAPTER;
  checkModules(
    adapter,
    config,
    "an adapter of other modules than the blocks' linear layers can only be used merged: see remat merge",
  );
  const ranks = [...adapter.modules.values()].map((module) => module.rank);
  const { scale, targets, modules } = adapter;
  const adapts = (module: string) => modules.has(module);
  return { method: "lora", rank: Math.max(1, ...ranks), scale, dropout: 0, targets: new Set(targets), adapts };
}

/**
 * Reads an adapter into its places: a smaller rank is filled up with zeros, what a module's scale has beyond that of the
 * programs goes into B.
 * @throws {UserError} wrong shape or dtype
 */
export function writeAdapterWeights(executor: Executor, resident: Resident, adapter: Adapter, scale: number): void {
  for (const { name, type } of resident.params.filter(isAdapter)) {
    const [, moduleName, side] = /^base_model\.model\.(.*)\.lora_([AB])\.weight$/.exec(name)!;
    const module = adapter.modules.get(moduleName!)!;
    const values = new Float32Array(elements(type.shape));
    const [rows, columns] = type.shape as [number, number];
    const shape = side === "A" ? [module.rank, columns] : [rows, module.rank];
    const stored = readFloat32(adapter.source, (side === "A" ? module.a : module.b).name, shape);
    const factor = side === "A" ? 1 : module.scale / scale;
    const width = shape[1]!;
    stored.forEach((value, i) => (values[Math.floor(i / width) * columns + (i % width)] = value * factor));
    executor.write(resident.param.get(name)!, new Uint8Array(values.buffer));
  }
}
