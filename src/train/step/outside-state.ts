import { freeMemory } from "../../base/process/free-memory.ts";
import type { Address, Executor } from "../../runtime/executor.ts";
import { outsidePlaces, type Resident } from "../../runtime/resident.ts";
import type { GradientWindow } from "../../runtime/streaming/gradient-window.ts";
import type { OutsideMemory } from "../../runtime/streaming/outside.ts";
import { openOutsideFile } from "../../store/outside-file.ts";
import type { ModelPlan } from "../memory/model-plan.ts";
import type { StreamOptions } from "../memory/stream.ts";

/** Opens the file of the trained state. @throws {UserError} a folder without room */
export function openOutside(executor: Executor, plan: ModelPlan, stream: StreamOptions) {
  const places = outsidePlaces(plan.params, plan.optimizer);
  return { places, memory: openOutsideFile(executor, stream.folder, places.bytes, freeMemory) };
}

/** Names of the frozen parameters that lie in files. */
export function frozenStreamed({ params, residency }: Pick<ModelPlan, "params" | "residency">): string[] {
  return params.filter(({ name, trainable }) => !trainable && residency.streamed.has(name)).map(({ name }) => name);
}

export function trainedPlaces({ params, param }: Resident): Map<string, Address> {
  return new Map(params.filter(({ trainable }) => trainable).map(({ name }) => [name, param.get(name)!]));
}

export function reserveGradients(
  executor: Executor,
  { gradient }: Resident,
  outside: OutsideMemory,
  bytes: number,
): GradientWindow {
  return { outside, address: executor.reserve(bytes), bytes, places: gradient, clean: new Set(gradient.keys()) };
}
