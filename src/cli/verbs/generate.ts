import { generate, generateFileSchema } from "../../library/generate.ts";
import { describeFlags } from "../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { createVerbSink } from "../terminal/verb-events.ts";

const schema = generateFileSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Answers the prompts of a file.

Usage: remat generate --model DIR [--adapter DIR] --data FILE --out FILE [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("generate", schema, args);
  const sink = createVerbSink(json, (event) => {
    if (event.type === "sampling") process.stderr.write(`sampling: ${event.text}\n`);
  });
  const { answers, tokens, seconds } = await generate(options, { sink });
  if (json) printEvent({ type: "written", files: [options.out], seconds });
  else {
    process.stderr.write(
      `${answers.length} answers, ${tokens} tokens in ${seconds.toFixed(1)} s (${(tokens / seconds).toFixed(1)} tokens/s): ${options.out}\n`,
    );
  }
  return 0;
}
