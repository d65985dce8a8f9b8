import { z } from "zod";
import { ENCODINGS } from "../base/codes.ts";
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
  gradientEncoding: z
    .enum(ENCODINGS)
    .default("f32")
    .describe("how the gradients of a micro-batch travel with --nodes: f32, or bf16 or int8 with error feedback"),
};

interface NodeSettings {
  readonly nodes?: number | undefined;
  readonly gradientEncoding: (typeof ENCODINGS)[number];
  readonly gradientAccumulation: number;
}

/** @throws {UserError} more processes than a step has micro-batches, an encoding of what is not sent */
export function checkNodes({ nodes, gradientEncoding, gradientAccumulation }: NodeSettings): void {
  if (nodes === undefined && gradientEncoding !== "f32")
    throw new UserError(
      `--gradient-encoding ${gradientEncoding} is for gradients that processes send each other; say how many there are: --nodes 2`,
    );
  if ((nodes ?? 1) <= gradientAccumulation) return;
  throw new UserError(
    `--nodes ${nodes} divides the micro-batches of a step, of which there are ${gradientAccumulation}; give --gradient-accumulation ${nodes} or more, or fewer --nodes`,
  );
}
