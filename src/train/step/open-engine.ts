import type { Executor } from "../../runtime/executor.ts";
import { streamedGroups } from "../../load/open-weights.ts";
import { storedWeights, type StoredWeightsOptions } from "../../load/stored/stored-weights.ts";
import type { ModelPlan } from "../memory/model-plan.ts";
import { createEngine, type Engine, type EngineOptions, planEngine } from "./engine.ts";
import { frozenStreamed } from "./outside-state.ts";

/**
 * Plans, and where the plan leaves weights in their files, converts those on disk first that do not lie there as memory wants them.
 * @param explain runs the planning, and tells a limit that cannot be kept in a user's terms
 * @throws {UserError} weights that are missing or do not fit; no room for the converted ones; see `storedWeights`
 * @throws {LimitError} as `createEngine`, if `explain` lets it pass
 */
export async function openEngine(
  executor: Executor,
  options: EngineOptions,
  explain: (plan: () => ModelPlan) => ModelPlan,
  stored: StoredWeightsOptions = {},
): Promise<Engine> {
  const plan = explain(() => planEngine(executor, options));
  const streamed = new Set(frozenStreamed(plan));
  if (streamed.size === 0) return createEngine(executor, options, { plan, stored: null });
  const weights = await storedWeights(options.source, streamedGroups(plan.loaded, plan.params, streamed), stored);
  try {
    return createEngine(executor, options, { plan, stored: weights });
  } catch (error) {
    weights.close();
    throw error;
  }
}
