import { z } from "zod";
import { memoryLimit } from "../../base/process/free-memory.ts";
import { FLEET_OPTIONS } from "../../fleet/options.ts";
import { baseFolder } from "../../load/find-model.ts";
import { parseMemory } from "../../train/memory/limit.ts";
import { validateOptions } from "../options.ts";

const { fleet, ...others } = FLEET_OPTIONS;

export const nodeOptionsSchema = z.strictObject({
  fleet,
  home: z.string().min(1).describe("folder for what the node fetches and trains; it may be emptied when the node has ended"),
  model: z
    .array(z.string().min(1))
    .default([])
    .describe("base models that are on this machine, by folder; others are fetched from the fleet when a job needs them"),
  memory: z
    .string()
    .min(1)
    .optional()
    .describe("limit of all its jobs together, such as 6GiB (80% of this machine's or container's memory)"),
  parallel: z.int().min(1).max(64).default(1).describe("jobs at a time, each with an equal part of the memory"),
  name: z.string().min(1).optional().describe("name in the fleet (the machine's, with a part that the home keeps)"),
  ...others,
});

export type FleetNodeOptions = z.input<typeof nodeOptionsSchema>;

/** A node of a fleet, until it is stopped. */
export interface RunningNode {
  readonly name: string;
  /** Has the jobs save and gives them back to the fleet, and leaves it. */
  stop(): Promise<void>;
  /** Resolves with the reason when the node cannot go on. */
  readonly failed: Promise<Error>;
}

/** Part of the machine's memory that is taken where nothing is said of it. */
const SHARE = 0.8;

/** Runs jobs of a fleet on this machine. @throws {UserError} a fleet that is not reached, or of another version */
export async function node(
  options: FleetNodeOptions,
  { onMessage }: { readonly onMessage?: (text: string) => void } = {},
): Promise<RunningNode> {
  const { model, memory, ...flags } = validateOptions(nodeOptionsSchema, options);
  const { startNode } = await import("../../fleet/node/node.ts");
  return startNode({
    ...flags,
    bases: await Promise.all(model.map((each) => baseFolder(each))),
    memory: memory === undefined ? Math.floor(SHARE * memoryLimit()) : parseMemory(memory),
    onMessage,
  });
}
