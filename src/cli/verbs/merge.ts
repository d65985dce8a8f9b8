import { merge, mergeOptionsSchema } from "../../library/merge.ts";
import { describeFlags } from "../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { print } from "../terminal/output.ts";

const schema = mergeOptionsSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Adds an adapter to its base model's weights and writes a model folder in the base model's dtype.

Usage: remat merge [--model DIR] --adapter DIR --out DIR [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const begin = performance.now();
  const { json, ...options } = readFlags("merge", schema, args);
  const { out, base, adapter } = await merge(options);
  if (json) printEvent({ type: "written", files: [out], seconds: (performance.now() - begin) / 1000 });
  else print(`${out}: ${base} with ${adapter} merged in`);
  return 0;
}
