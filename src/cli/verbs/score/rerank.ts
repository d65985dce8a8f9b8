import { rerank, rerankFileSchema } from "../../../library/texts/rerank.ts";
import { describeFlags } from "../../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../../flags/model-flags.ts";
import { printEvent } from "../../terminal/display.ts";
import { print } from "../../terminal/output.ts";
import { createVerbSink } from "../../terminal/verb-events.ts";

const schema = rerankFileSchema.extend(JSON_FLAG);

export { schema as flags };

export function help(): string {
  return `Ranks texts by how well they answer a query, with a cross-encoder: a line of JSON for each query, its texts with their scores, the best first.

Usage: remat rerank --model DIR [--adapter DIR] --data FILE|- [--query TEXT] [--out FILE] [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("rerank", schema, args);
  const { queries, texts, tokens, seconds } = await rerank(options, { sink: createVerbSink(json) });
  if (options.out === undefined) for (const query of queries) print(JSON.stringify(query));
  else if (json) printEvent({ type: "written", files: [options.out], seconds });
  if (options.out !== undefined && !json)
    process.stderr.write(
      `${queries.length} queries, ${texts} texts, ${tokens} tokens in ${seconds.toFixed(1)} s: ${options.out}\n`,
    );
  return 0;
}
