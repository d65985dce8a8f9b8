import { classify, classifyFileSchema } from "../../../library/texts/classify.ts";
import { describeFlags } from "../../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../../flags/model-flags.ts";
import { printEvent } from "../../terminal/display.ts";
import { print } from "../../terminal/output.ts";
import { createVerbSink } from "../../terminal/verb-events.ts";

const schema = classifyFileSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Judges texts with a trained classifier or reward model: a line of JSON for each, with its class and the probabilities of all classes, or its value.

Usage: remat classify --model DIR [--adapter DIR] --data FILE|- [--out FILE] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("classify", schema, args);
  const { texts, tokens, seconds } = await classify(options, { sink: createVerbSink(json) });
  if (options.out === undefined) for (const text of texts) print(JSON.stringify(text));
  else if (json) printEvent({ type: "written", files: [options.out], seconds });
  if (options.out !== undefined && !json)
    process.stderr.write(`${texts.length} texts, ${tokens} tokens in ${seconds.toFixed(1)} s: ${options.out}\n`);
  return 0;
}
