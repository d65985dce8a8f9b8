import { z } from "zod";
import { UserError } from "../base/errors.ts";

/** The settings of training by several processes, by configuration key. */
export const NODE_FLAGS = {
  nodes: z
    .number()
    .int()
    .min(1)
    .max(64)
    .optional()
    .describe("processes among which the micro-batches of a step are divided; each has the model in its memory"),
};

interface NodeSettings {
  readonly nodes?: number | undefined;
  readonly gradientAccumulation: number;
}

/** @throws {UserError} more processes than a step has micro-batches */
export function checkNodes({ nodes = 1, gradientAccumulation }: NodeSettings): void {
  if (nodes <= gradientAccumulation) return;
  throw new UserError(
    `--nodes ${nodes} divides the micro-batches of a step, of which there are ${gradientAccumulation}; give --gradient-accumulation ${nodes} or more, or fewer --nodes`,
  );
}
