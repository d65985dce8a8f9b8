import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { mergeAdapter } from "../../hf/weights/merge.ts";
import { printEvent } from "../terminal/display.ts";
import { findModel } from "../../load/find-model.ts";
import { describeFlags } from "../flags/flags.ts";
import { readFlags } from "../flags/model-flags.ts";

const schema = z.strictObject({
  model: z.string().min(1).optional().describe("base model: folder or hub name (default: the one that the adapter names)"),
  adapter: z.string().min(1).optional().describe("PEFT adapter folder, such as a run folder"),
  out: z.string().min(1).describe("folder to write; must be new or empty"),
  maxShardSize: z.number().positive().default(50).describe("largest weight file, in GB (10^9 bytes)"),
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
});

export { schema as flags };

export function help(): string {
  return `Adds an adapter to its base model's weights and writes a model folder in the base model's dtype.

Usage: remat merge [--model DIR] --adapter DIR --out DIR [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const begin = performance.now();
  const flags = readFlags("merge", schema, args);
  const { folder: base, adapter } = await findModel(flags);
  if (adapter === null) throw new UserError("merge needs an adapter: give its folder with --adapter");
  mergeAdapter({ base, adapter, output: flags.out, maxShardBytes: flags.maxShardSize * 1e9 });
  if (flags.json) printEvent({ type: "written", files: [flags.out], seconds: (performance.now() - begin) / 1000 });
  else console.log(`${flags.out}: ${base} with ${adapter} merged in`);
  return 0;
}
