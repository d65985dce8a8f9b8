import { createBreath } from "../../base/process/event-loop.ts";
import type { Sample } from "../../data/samples/sample.ts";
import type { SampleSet } from "../../data/samples/sample-store.ts";
import { contextLimit } from "../../models/context.ts";
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

/** Makes samples of texts that a model is to judge. @throws {UserError} more tokens than the model's context */
export function judgedSamples(
  { config, tokenizer }: Pick<OpenModel, "config" | "tokenizer">,
  { maxTokens, truncate }: { readonly maxTokens?: number | undefined; readonly truncate: boolean },
): SampleMaker {
  const maxLength = roomOf(config, maxTokens ?? contextLimit(config));
  const { vocabSize, encoder, textHead } = config;
  const asks = textHead?.options !== undefined;
  return createSampleMaker(tokenizer, { maxLength, truncate, vocabSize, surround: encoder !== null, asks });
}

/** Texts that are judged at a time, in rows that they share. */
const WINDOW = 1024;

/**
 * Opens a model for texts that are all there, and judges them. The event loop gets in between two rows.
 * @throws {UserError} weights that are missing or do not fit
 */
export async function judgeAll(
  executor: Executor,
  { model, classifier, samples, signal }: JudgedOnce,
  reading: ReadWeightsOptions,
): Promise<Float32Array[]> {
  const { count, lengths } = samples;
  const maxTokens = lengths.reduce((most, length) => Math.max(most, length), 1);
  const judge = await openJudge(executor, { model, classifier, maxTokens }, reading);
  const breathe = createBreath(signal);
  const judged: Float32Array[] = [];
  try {
    for (let from = 0; from < count; from += WINDOW) {
      const window = Array.from({ length: Math.min(WINDOW, count - from) }, (_, i) => samples.sample(from + i));
      judged.push(...(await judge.judge(window, breathe)));
    }
    return judged;
  } finally {
    judge.close();
  }
}

/** Texts that are judged by a model which is then no longer needed. */
interface JudgedOnce {
  readonly model: OpenModel & WeightStorage;
  readonly classifier: Classifier;
  readonly samples: SampleSet;
  readonly signal: AbortSignal | undefined;
}

/** Opens a model that judges texts of up to `maxTokens` tokens. @throws {UserError} weights that are missing or do not fit */
export async function openJudge(
  executor: Executor,
  {
    model,
    classifier,
    maxTokens,
  }: { readonly model: OpenModel & WeightStorage; readonly classifier: Classifier; readonly maxTokens: number | undefined },
  reading: ReadWeightsOptions,
): Promise<Judge> {
  const context = roomOf(model.config, maxTokens);
  const rows = rowSizes(context, MOST_TEXTS);
  const options = { ...model, head: classifierHead(classifier), tokens: rows.sizes, texts: rows.most, weighted: false };
  const scorer = await openScorer(executor, options, reading);
  return {
    classifier,
    context,
    maker: (truncate) => judgedSamples(model, { maxTokens: context, truncate }),
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
