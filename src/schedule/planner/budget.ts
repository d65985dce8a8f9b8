/**
 * The memory budget: the cheapest schedule that fits a limit, from saving everything down to the least memory.
 * Limits and peaks are bytes of stash and workspace; what is resident is not part of a chain.
 */
import type { Planned, Planner } from "./optimal.ts";

export interface Fit extends Planned {
  readonly feasible: true;
  readonly leastMemory: number;
}

export interface NoFit {
  readonly feasible: false;
  /** The least limit for which there is a schedule. */
  readonly leastMemory: number;
}

export type BudgetResult = Fit | NoFit;

/**
 * The cheapest schedule for each of several limits, in their order. A larger limit never gets a slower schedule than a
 * smaller one of the same list, even where sizes are rounded to slots.
 */
export function fitBudgets(planner: Planner, memories: readonly number[]): BudgetResult[] {
  const { leastMemory } = planner;
  const results = memories.map((): BudgetResult => ({ feasible: false, leastMemory }));
  let cheapest: Planned | null = null;
  for (const index of [...memories.keys()].toSorted((x, y) => memories[x]! - memories[y]!)) {
    const planned = planner.plan(memories[index]!);
    if (!planned) continue;
    if (!cheapest || planned.simulation.time < cheapest.simulation.time) cheapest = planned;
    results[index] = { feasible: true, leastMemory, ...cheapest };
  }
  return results;
}
