import { createBatches } from "../../data/samples/batch.ts";
import type { Sample } from "../../data/samples/sample.ts";
import { createSampleMaker, type SampleMaker } from "../../data/samples/sample-maker.ts";
import { roomOf } from "../open-decoder.ts";
import { openScorer } from "../score.ts";
import type { ReadWeightsOptions } from "../../load/open-weights.ts";
import type { OpenModel } from "../../load/open-model.ts";
import type { WeightStorage } from "../../load/weights.ts";
import { classifierHead } from "../../objectives/index.ts";
import { type Judgement, judgementOf } from "../../objectives/judgement.ts";
import type { Executor } from "../../runtime/executor.ts";

/** Tokens of the rows that texts are put into, the smallest that each fits into; and the longest text. */
const SIZES = [32, 128, 512, 2048];

/** A classifier, or a reward model, with its weights in memory. */
export interface Judge {
  /** The longest text, in tokens. */
  readonly context: number;
  readonly maker: SampleMaker;
  judge(sample: Sample): Judgement;
  close(): void;
}

/** Opens a model that judges one text at a time. @throws {UserError} weights that are missing or do not fit */
export async function openJudge(
  executor: Executor,
  { model, maxTokens }: { readonly model: OpenModel & WeightStorage; readonly maxTokens: number | undefined },
  reading: ReadWeightsOptions,
): Promise<Judge> {
  const { config, tokenizer, classifier } = model;
  const context = roomOf(config, maxTokens);
  const sizes = [...SIZES.filter((size) => size < context), context];
  const options = { ...model, head: classifierHead(classifier!), tokens: sizes, texts: 1, weighted: false };
  const scorer = await openScorer(executor, options, reading);
  return {
    context,
    maker: createSampleMaker(tokenizer, {
      maxLength: context,
      vocabSize: config.vocabSize,
      surround: config.encoder !== null,
    }),
    judge: (sample) => judgementOf(classifier!, scorer.textLogits(rowOf(sample, sizes))),
    close: scorer.close,
  };
}

/** A micro-batch of one text. */
function rowOf(sample: Sample, sizes: readonly number[]) {
  const { length } = sample.ids;
  const samples = {
    count: 1,
    lengths: Int32Array.of(length),
    tokens: length,
    labelled: 0,
    weighted: false,
    sample: () => sample,
  };
  const rowLength = sizes.find((size) => size >= length)!;
  return createBatches(samples, { rows: 1, rowLength, packing: true, seed: 0, padId: 0, shuffle: false }).batch(0, 0);
}
