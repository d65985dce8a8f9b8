/** `remat plan --chain FILE --memory BYTES[,BYTES...] [--json]`: plans a bare chain, without a model. */
import { readFileSync } from "node:fs";
import { messageOf, UserError } from "../../../base/errors.ts";
import { type BudgetResult, fitBudgets } from "../../../schedule/planner/budget.ts";
import { type Chain, ChainError, idealTime, parseChain } from "../../../schedule/chain.ts";
import { formatSchedule } from "../../../schedule/ops.ts";
import { plannerOf } from "../../../schedule/planner/offload.ts";
import { print } from "../../terminal/output.ts";

/** Exit status when a limit is too low for any schedule. */
export const EXIT_INFEASIBLE = 3;

/** An answer of `--json`. Sizes are in the unit of the chain's sizes, times in that of its times. */
export type ChainPlan =
  | {
      readonly feasible: true;
      readonly time: number;
      readonly peak: number;
      readonly minimum_memory: number;
      readonly ops: readonly string[];
    }
  | { readonly feasible: false; readonly minimum_memory: number };

/**
 * Plans the chain in a JSON file and prints the plan of each limit: with `json` an object, or an array of objects in the
 * order of the limits when there are several. Returns the exit status: 0, or 3 when a limit is too low. Throws `UserError` on bad input.
 */
export function planChain(file: string, memory: string, json: boolean): number {
  const limits = memory.split(",").map(parseLimit);
  const chain = readChain(file);
  const results = fitBudgets(plannerOf(chain), limits);
  if (json) {
    const plans = results.map(chainPlan);
    print(JSON.stringify(memory.includes(",") ? plans : plans[0]));
  } else {
    results.forEach((result, i) => print(describe(chain, limits[i]!, result)));
  }
  return results.every(({ feasible }) => feasible) ? 0 : EXIT_INFEASIBLE;
}

function chainPlan(result: BudgetResult): ChainPlan {
  const minimum_memory = result.leastMemory;
  if (!result.feasible) return { feasible: false, minimum_memory };
  const { time, peak } = result.simulation;
  return { feasible: true, time, peak, minimum_memory, ops: formatSchedule(result.schedule) };
}

function describe(chain: Chain, limit: number, result: BudgetResult): string {
  if (!result.feasible) return `memory ${limit}: no schedule fits; the least memory is ${result.leastMemory}`;
  const { time, peak } = result.simulation;
  const ideal = idealTime(chain);
  const overhead = ideal > 0 ? ` (${((100 * (time - ideal)) / ideal).toFixed(1)} % over the step without recompute)` : "";
  return `memory ${limit}: time ${time}${overhead}, peak ${peak}, least memory ${result.leastMemory}\n  ${formatSchedule(result.schedule).join(", ")}`;
}

function parseLimit(text: string): number {
  const limit = text.trim() === "" ? NaN : Number(text);
  if (!Number.isFinite(limit) || limit < 0) {
    throw new UserError(`--memory: expected a number of bytes, or several with commas between them, got ${JSON.stringify(text)}`);
  }
  return limit;
}

function readChain(file: string): Chain {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    throw new UserError(`--chain: cannot read ${file}: ${messageOf(error)}`);
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(`--chain: ${file} is not JSON: ${messageOf(error)}`);
  }
  try {
    return parseChain(value);
  } catch (error) {
    if (error instanceof ChainError) throw new UserError(`--chain: ${file} is not a chain: ${error.message}`);
    throw error;
  }
}
