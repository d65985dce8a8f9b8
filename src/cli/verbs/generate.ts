import { existsSync } from "node:fs";
import { generate, generateFileSchema } from "../../library/generate.ts";
import { describeFlags } from "../flags/flags.ts";
import { JSON_FLAG, readFlags } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { withSignals } from "../terminal/signals.ts";
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
  const say = (line: string) => process.stderr.write(`${line}\n`);
  const sink = createVerbSink(json, (event) => {
    if (event.type === "sampling") say(`sampling: ${event.text}`);
  });
  return withSignals(async (signal) => {
    try {
      const { answers, kept, seconds } = await generate(options, { sink, signal });
      if (json) printEvent({ type: "written", files: [options.out], seconds });
      else {
        const tokens = answers.slice(kept).reduce((sum, answer) => sum + answer.tokens, 0);
        const rate = tokens === 0 ? "" : ` (${(tokens / seconds).toFixed(1)} tokens/s)`;
        say(`${answers.length - kept} answers, ${tokens} tokens in ${seconds.toFixed(1)} s${rate}: ${options.out}`);
      }
      return false;
    } catch (error) {
      if (!signal.aborted || error !== signal.reason) throw error;
      const again = options.overwrite ? "the same command without --overwrite" : "the same command";
      const text = existsSync(options.out)
        ? `interrupted: the answers so far are in ${options.out}, and ${again} goes on behind them`
        : "interrupted before there was an answer; nothing was written";
      sink({ type: "note", text });
      return true;
    }
  });
}
