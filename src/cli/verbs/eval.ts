import { z } from "zod";
import { createBatches } from "../../data/samples/batch.ts";
import { evaluationFile } from "../../data/examples/dataset.ts";
import { loadSamples } from "../../data/samples/prepare.ts";
import { createSampleMaker } from "../../data/samples/sample.ts";
import { createScorer } from "../../generate/score.ts";
import { checkContext, contextLimit } from "../../models/rope.ts";
import { sequenceLengthOf, trainConfigSchema } from "../../train/config.ts";
import { startOfDay } from "../../train/run/date.ts";
import { printEvent } from "../terminal/display.ts";
import { printNote } from "../terminal/terminal.ts";
import { describeFlags } from "../flags/flags.ts";
import { MODEL_FLAGS, readFlags } from "../flags/model-flags.ts";
import { withModel } from "../../load/open-model.ts";

const schema = z.strictObject({
  ...MODEL_FLAGS,
  data: z.string().min(1).describe("examples: a JSONL file, or a folder with test.jsonl or valid.jsonl"),
  sequenceLength: z.int().min(2).optional().describe("tokens in a row (512, or the model's context)"),
  truncate: z.boolean().default(false).describe("cut examples that are longer than the sequence length"),
  date: trainConfigSchema.shape.date.describe("what chat templates that write the date take for today (today)"),
  json: z.boolean().default(false).describe("print one JSON object"),
});

export { schema as flags };

export function help(): string {
  return `Measures a model on examples: mean loss of the tokens that training would learn, perplexity, token accuracy.

Usage: remat eval --model DIR [--adapter DIR] --data FILE [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const flags = readFlags("eval", schema, args);
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      const tokens = sequenceLengthOf(flags, contextLimit(config));
      checkContext(config, tokens);
      const eosId = config.eosTokenIds[0] ?? null;
      const maker = createSampleMaker(tokenizer, {
        maxLength: tokens,
        truncate: flags.truncate,
        vocabSize: config.vocabSize,
        eosId,
        ...(flags.date === undefined ? {} : { now: startOfDay(flags.date) }),
      });
      const samples = await loadSamples(evaluationFile(flags.data), maker);
      const padId = tokenizer.padId ?? eosId ?? 0;
      const batches = createBatches(samples, { rows: 1, rowLength: tokens, packing: true, seed: 0, padId, shuffle: false });
      const score = createScorer(executor, { ...model, tokens, weighted: samples.weighted });
      const total = { loss: 0, labelled: 0, weight: 0, correct: 0 };
      for (let index = 0; index < batches.count(0); index++) {
        const batch = batches.batch(0, index);
        const { loss, correct } = score(batch);
        total.loss += loss;
        total.labelled += batch.labelled;
        total.weight += batch.weight;
        total.correct += correct;
      }
      const loss = total.loss / total.weight;
      const result = {
        examples: samples.count,
        tokens: total.labelled,
        loss,
        perplexity: Math.exp(loss),
        accuracy: total.correct / total.labelled,
      };
      if (flags.json) printEvent({ type: "score", ...result });
      else {
        console.log(
          `loss ${loss.toFixed(4)}, perplexity ${result.perplexity.toFixed(3)}, token accuracy ${(100 * result.accuracy).toFixed(2)} % ` +
            `(${result.examples} examples, ${result.tokens} tokens with a target)`,
        );
      }
      return 0;
    },
    { onNote: printNote },
  );
}
