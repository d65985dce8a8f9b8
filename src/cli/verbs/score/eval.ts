import { evaluate, evaluateOptionsSchema } from "../../../library/evaluate.ts";
import { metricTexts, OBJECTIVE_KEYS, objectiveOf } from "../../../objectives/index.ts";
import { HELP_GROUPS } from "../../../train/config.ts";
import { describeFlags } from "../../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../../flags/model-flags.ts";
import { printEvent } from "../../terminal/display.ts";
import { createVerbSink } from "../../terminal/verb-events.ts";
import { print } from "../../terminal/output.ts";

const schema = evaluateOptionsSchema.extend(JSON_FLAG);

/** Settings of the objectives are one line, as in train's help. */
const OBJECTIVE_GROUPS = HELP_GROUPS.filter(({ keys }) => keys === OBJECTIVE_KEYS);

export { schema as flags };

export function help(): string {
  return `Measures a model on examples: mean loss of what training would learn, and the metrics of the objective (perplexity and token accuracy).

Usage: remat eval --model DIR [--adapter DIR] --data FILE [--flag value ...]

${describeFlags(schema, OBJECTIVE_GROUPS)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { json, ...options } = readFlags("eval", schema, args);
  const result = await evaluate(options, { sink: createVerbSink(json) });
  if (json) printEvent({ type: "score", ...result });
  else {
    const ofTexts = objectiveOf(options).head.kind === "logits";
    print(
      `loss ${result.loss.toFixed(4)}, ${metricTexts(result.metrics, 1).join(", ")} (${result.examples} examples, ${result.tokens} tokens${ofTexts ? "" : " with a target"})`,
    );
  }
  return 0;
}
