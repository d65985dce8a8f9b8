import { embed, embedFileSchema, lineOf } from "../../../library/texts/embed.ts";
import { describeFlags } from "../../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../../flags/model-flags.ts";
import { printEvent } from "../../terminal/display.ts";
import { print } from "../../terminal/output.ts";
import { createVerbSink } from "../../terminal/verb-events.ts";

const schema = embedFileSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Makes embeddings of texts, with a text encoder, a folder of sentence-transformers, or a model that generates text: a line of JSON for each, or a row of a .npy file.

Usage: remat embed --model DIR [--adapter DIR] --data FILE|- [--out FILE] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("embed", schema, args);
  const { texts, count, dimensions, tokens, seconds } = await embed(options, { sink: createVerbSink(json) });
  if (options.out === undefined) for (const text of texts) print(lineOf(text));
  else if (json) printEvent({ type: "written", files: [options.out], seconds });
  if (options.out !== undefined && !json)
    process.stderr.write(
      `${count} texts, ${tokens} tokens in ${seconds.toFixed(1)} s: ${dimensions} numbers each, ${options.out}\n`,
    );
  return 0;
}
