import { z } from "zod";
import { UserError } from "../errors.ts";
import { validateConfig } from "./config-file.ts";
import { describeFlags, parseFlags } from "./flags.ts";
import { planChain } from "./plan-chain.ts";

export const flags = z.strictObject({
  chain: z.string().min(1).describe("JSON file with the sizes and times of a chain of segments"),
  memory: z.string().min(1).describe("limit in the unit of the chain's sizes; several with commas between them"),
  json: z.boolean().default(false).describe("print JSON: an object, or an array when there are several limits"),
});

export function help(): string {
  return `Plans what a training step keeps and what it computes again, so that it stays within a memory limit.

Usage: remat plan --chain FILE --memory BYTES[,BYTES...] [--json]

The fastest schedule of each limit, its time, its exact peak and its steps. Exit status 3 when a limit is too low for any.

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const parsed = parseFlags(flags, args);
  if (parsed.words.length > 0) throw new UserError(`plan takes no word ${JSON.stringify(parsed.words.join(" "))}; see --help`);
  const { chain, memory, json } = validateConfig(flags, parsed.values);
  return planChain(chain, memory, json);
}
