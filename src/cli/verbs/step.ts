import { formatBytes } from "../../base/bytes.ts";
import { step, type StepOptions, stepOptionsSchema } from "../../library/step.ts";
import { describeFlags, parseOnlyFlags } from "../flags/flags.ts";
import { temporaryText } from "../terminal/progress.ts";
import { createVerbSink } from "../terminal/verb-events.ts";
import { print } from "../terminal/output.ts";

export { stepOptionsSchema as flags };

export function help(): string {
  return `One forward and backward pass without an update, for checking against other systems.

Usage: remat step --model DIR --batch FILE --out FILE [--flag value ...]

${describeFlags(stepOptionsSchema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  // As they were given: an adapter must agree with what was asked for, and not with defaults.
  const options = parseOnlyFlags("step", stepOptionsSchema, args) as unknown as StepOptions;
  const result = await step(options, { sink: createVerbSink(false) });
  const scaled = result.lossScale === 1 ? "" : `, computed ${result.lossScale} times as large`;
  print(
    `loss ${result.loss.toFixed(6)} over ${result.labelled} tokens; ${result.gradients} gradients in ${options.out}${scaled}; ` +
      `peak memory predicted ${formatBytes(result.predictedPeak)}, measured ${formatBytes(result.measuredPeak)}${temporaryText(result.temporary)}`,
  );
  return 0;
}
