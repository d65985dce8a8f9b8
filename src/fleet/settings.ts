import { UserError } from "../base/errors.ts";
import type { TrainConfigInput } from "../train/config.ts";

/** Tells whether held-out examples are a part of the training data, and not a file. */
export const isShare = (valid: string): boolean => /^\d+(?:\.\d+)?%?$/.test(valid);

/**
 * Checks that settings name nothing of a machine: a front sends none that do, and a node takes none.
 * @throws {UserError}
 */
export function checkSettings({ offload, teacher, valid }: TrainConfigInput): void {
  if (teacher !== undefined)
    throw new UserError(
      "teacher: nodes of a fleet have base models alone; have the teacher tell with remat generate, and train on what it told",
    );
  if (offload !== undefined && offload !== "off" && offload !== "auto")
    throw new UserError(`offload: expected off or auto on a node of a fleet, got ${JSON.stringify(offload)}`);
  if (valid !== undefined && !isShare(String(valid)))
    throw new UserError(
      `valid: expected a share of the examples, such as 5%, or a file of the fleet, got ${JSON.stringify(valid)}`,
    );
}
