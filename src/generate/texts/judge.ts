import type { Sample } from "../../data/samples/sample.ts";
import { createSampleMaker, type SampleMaker } from "../../data/samples/sample-maker.ts";
import { roomOf } from "../open-decoder.ts";
import { openScorer } from "../score.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { OpenModel } from "../../load/open-model.ts";
import type { WeightStorage } from "../../load/weights.ts";
import type { Classifier } from "../../hf/config/classifier.ts";
import { classifierHead } from "../../objectives/index.ts";
import type { Executor } from "../../runtime/executor.ts";
import { rowSizes, rowsOf } from "./rows.ts";

/** Texts of a row, at most: the head works as if all were there. */
const MOST_TEXTS = 64;

/** A classifier, a reward model or a reranker, with its weights in memory. */
export interface Judge {
  readonly classifier: Classifier;
  /** The longest text, in tokens. */
  readonly context: number;
  /** Makes samples of texts to be judged. @param truncate cut those that are too long */
  maker(truncate: boolean): SampleMaker;
  /**
   * The numbers that the head gives each text, in their order. Texts share rows; none sees another.
   * @param breathe lets others get in, between two rows
   */
  judge(samples: readonly Sample[], breathe?: () => unknown): Promise<Float32Array[]>;
  close(): void;
}

/** Opens a model that judges texts. @throws {UserError} weights that are missing or do not fit */
export async function openJudge(
  executor: Executor,
  {
    model,
    classifier,
    maxTokens,
  }: { readonly model: OpenModel & WeightStorage; readonly classifier: Classifier; readonly maxTokens: number | undefined },
  reading: ReadWeightsOptions,
): Promise<Judge> {
  const { config, tokenizer } = model;
  const context = roomOf(config, maxTokens);
  const rows = rowSizes(context, MOST_TEXTS);
  const options = { ...model, head: classifierHead(classifier), tokens: rows.sizes, texts: rows.most, weighted: false };
  const scorer = await openScorer(executor, options, reading);
  return {
    classifier,
    context,
    maker: (truncate) =>
      createSampleMaker(tokenizer, {
        maxLength: context,
        truncate,
        vocabSize: config.vocabSize,
        surround: config.encoder !== null,
      }),
    async judge(samples, breathe = () => {}) {
      const judged: Float32Array[] = [];
      for (const { batch, members } of rowsOf(samples, rows)) {
        await breathe();
        const numbers = scorer.textLogits(batch);
        const outputs = numbers.length / members.length;
        for (const [i, text] of members.entries()) judged[text] = numbers.slice(i * outputs, (i + 1) * outputs);
      }
      return judged;
    },
    close: scorer.close,
  };
}
