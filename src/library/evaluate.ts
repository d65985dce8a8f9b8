import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { createBreath } from "../base/process/event-loop.ts";
import { readMapping } from "../data/examples/formats.ts";
import { evaluationFiles } from "../data/examples/sources.ts";
import { type Batches, createBatches, type MicroBatch } from "../data/samples/batch.ts";
import { groupSamples } from "../data/samples/groups.ts";
import { maskingOf, withMasks } from "../data/samples/masking.ts";
import { withMismatched } from "../data/samples/mismatched.ts";
import { mixSamples } from "../data/samples/mix.ts";
import { loadSamples } from "../data/samples/prepare.ts";
import type { SampleSet } from "../data/samples/sample-store.ts";
import { createSampleMaker } from "../data/samples/sample-maker.ts";
import { type DeviceOptions, openDevice } from "../device.ts";
import { openScorer, type Scorer, type ScorerOptions } from "../generate/score.ts";
import type { ReadWeightsOptions } from "../load/open-weights.ts";
import { denseOf, withPooling } from "../load/embedder.ts";
import { withModel } from "../load/open-model.ts";
import { checkContext, contextLimit } from "../models/context.ts";
import { checkObjectiveFlags, makerFor, OBJECTIVE_FLAGS, objectiveOf } from "../objectives/index.ts";
import { addSums, type Head, hasReference, referenceTexts, type Sums, type Values } from "../objectives/objective.ts";
import { sequenceLengthOf, trainConfigSchema } from "../train/config.ts";
import { tempered } from "../objectives/calibration.ts";
import { expectReader, predictionOf, withLabelsOf } from "../train/labels.ts";
import { withListSize } from "../train/list-size.ts";
import { startOfDay } from "../train/run/date.ts";
import { addReferences, createReferences, type References, withReferences } from "../train/step/references.ts";
import { type CallOptions, CHAT_OPTIONS, checkOf, MODEL_OPTIONS, readingOf, validateOptions } from "./options.ts";

export const evaluateOptionsSchema = z.strictObject({
  ...MODEL_OPTIONS,
  ...CHAT_OPTIONS,
  data: z.string().min(1).describe("examples, in files as train takes them; of a folder its test split, else the held-out one"),
  columns: trainConfigSchema.shape.columns,
  roles: trainConfigSchema.shape.roles,
  objective: trainConfigSchema.shape.objective,
  ...OBJECTIVE_FLAGS,
  sequenceLength: z.int().min(2).optional().describe("tokens in a row (512, or the model's context)"),
  truncate: z.boolean().default(false).describe("cut examples that are longer than the sequence length"),
  date: trainConfigSchema.shape.date.describe("what chat templates that write the date take for today (today)"),
});

export type EvaluateOptions = z.input<typeof evaluateOptionsSchema>;

export interface EvaluateResult {
  readonly examples: number;
  /** Tokens with a target, or of texts that are judged as a whole all of them. */
  readonly tokens: number;
  /** The objective's: for next-token the mean cross entropy of the tokens with a target, in nats, weighted where they have weights. */
  readonly loss: number;
  /** The objective's, by name: for next-token `perplexity`, and as `accuracy` the share of these tokens that were the likeliest one. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Results of the objective that are no numbers: for classify the confusion matrix, of each class precision, recall and F1, and what the temperature makes of loss, Brier score and calibration error. */
  readonly details?: Readonly<Record<string, unknown>>;
}

/**
 * Measures a model on examples: mean loss of what training would learn, and the metrics of the objective. The event loop gets in
 * between two rows.
 * @throws {UserError} bad examples, a model that does not fit, a loss that is not finite
 */
export async function evaluate(options: EvaluateOptions, { sink = () => {}, signal }: CallOptions = {}): Promise<EvaluateResult> {
  const flags = validateOptions(evaluateOptionsSchema, options);
  signal?.throwIfAborted();
  const onNote = (text: string) => sink({ type: "note", text });
  checkObjectiveFlags(flags);
  return withModel(
    flags,
    async (model, executor) => {
      const { config, tokenizer } = model;
      expectReader(flags, model);
      if (flags.objective === "distil")
        throw new UserError(
          "--objective distil: what a student learned is measured as any model is; leave --objective away, or give held-out examples to remat train by --valid",
        );
      const dataFiles = evaluationFiles(flags.data);
      const objective = objectiveOf(await withListSize(withLabelsOf(flags, model), dataFiles, signal));
      const tokens = sequenceLengthOf(flags, contextLimit(config));
      checkContext(config, tokens);
      const eosId = config.eosTokenIds[0] ?? null;
      const maker = makerFor(
        objective,
        createSampleMaker(tokenizer, {
          maxLength: tokens,
          truncate: flags.truncate,
          vocabSize: config.vocabSize,
          surround: config.encoder !== null,
          asks: config.textHead?.options !== undefined,
          eosId,
          ...(flags.date === undefined ? {} : { now: startOfDay(flags.date) }),
        }),
      );
      const files = { mapping: readMapping(flags), onNote, signal };
      const sets: SampleSet[] = [];
      for (const path of dataFiles) {
        const loaded = await loadSamples(path, maker, files);
        sets.push(objective.texts === 1 ? loaded : groupSamples(loaded, objective.texts));
      }
      const all = sets.length === 1 ? sets[0]! : mixSamples(sets.map((set) => ({ set, weight: 1 })));
      // Nothing says how many examples were trained on at a time: answers go round among all.
      const samples = objective.mismatched ? withMismatched(all, { group: all.count, maxLength: tokens }) : all;
      const padId = tokenizer.padId ?? eosId ?? 0;
      const rowLength = tokens * objective.texts;
      const unmasked = createBatches(samples, { rows: 1, rowLength, packing: true, seed: 0, padId, shuffle: false });
      const { masked: share } = objective;
      const masking = share === undefined ? null : maskingOf(tokenizer, { share, seed: 0, vocabSize: config.vocabSize });
      const plain = masking ? withMasks(unmasked, masking) : unmasked;
      const reading = readingOf(flags, onNote, signal);
      const texts = objective.texts * plain.most;
      const { head } = objective;
      const pooling = head.kind === "logits" ? head.pooling : undefined;
      const measured = pooling === undefined ? config : withPooling(config, pooling, denseOf(model));
      const options = { ...model, config: measured, head, tokens: rowLength, texts, weighted: samples.weighted };
      const batches = hasReference(objective.head)
        ? await againstBase(plain, createReferences(samples.count, referenceTexts(objective)), options, {
            flags,
            reading,
            signal,
          })
        : plain;
      const scorer = await openScorer(executor, options, reading);
      const breathe = createBreath(signal);
      const tally = createTally(objective.head, scorer, model.classifier?.temperature ?? null);
      let [labelled, used] = [0, 0];
      try {
        for (let index = 0; index < batches.count(0); index++) {
          await breathe();
          const batch = batches.batch(0, index);
          tally.add(batch);
          labelled += batch.labelled;
          used += batch.used;
        }
      } finally {
        scorer.close();
      }
      const { loss, metrics, details } = tally.values();
      if (!Number.isFinite(loss)) {
        throw new UserError(
          `the loss is ${loss}, though all weights are finite: a value within the model is too large for the type that it is computed in. The weights come from training that diverged, or want another --dtype`,
        );
      }
      const known = objective.metrics.filter(({ name }) => metrics[name] !== undefined);
      const shown = Object.fromEntries(known.map(({ name }) => [name, metrics[name]!]));
      const tokensCounted = objective.head.kind === "logits" ? used : labelled;
      return { examples: samples.count, tokens: tokensCounted, loss, metrics: shown, ...(details && { details }) };
    },
    { onNote, check: checkOf(flags), predicts: predictionOf(flags) },
  );
}

/** Adds up what a model says of micro-batches; of a classifier with a temperature also what it says at that. */
function createTally(head: Head, scorer: Scorer, temperature: number | null) {
  let [sums, atTemperature]: (Sums | null)[] = [null, null];
  return {
    add(batch: MicroBatch): void {
      if (head.kind !== "logits") return void (sums = addSums(sums!, scorer.score(batch)));
      const logits = scorer.textLogits(batch);
      sums = addSums(sums!, head.evaluate?.(batch, logits) ?? head.judge(batch, logits).sums);
      if (temperature !== null) atTemperature = addSums(atTemperature!, head.judge(batch, tempered(logits, temperature)).sums);
    },
    values(): Values {
      const { details, ...values } = head.values(sums!);
      if (!atTemperature) return { ...values, ...(details && { details }) };
      const { loss, metrics } = head.values(atTemperature);
      const { brier, ece } = metrics as Partial<Record<"brier" | "ece", number>>;
      return { ...values, details: { ...details, calibrated: { temperature, loss, brier, ...(ece !== undefined && { ece }) } } };
    },
  };
}

/**
 * Batches with what the base model alone says of them, by which an objective with a reference measures an adapter. The base model is in memory
 * before the other one is.
 * @throws {UserError} a model without an adapter, of which nobody knows what it was
 */
async function againstBase(
  batches: Batches,
  references: References,
  options: ScorerOptions,
  {
    flags,
    reading,
    signal,
  }: {
    readonly flags: DeviceOptions & { readonly objective: string };
    readonly reading: ReadWeightsOptions;
    readonly signal: AbortSignal | undefined;
  },
): Promise<Batches> {
  if (options.adapter === null)
    throw new UserError(
      `--objective ${flags.objective} measures an adapter against its base model, and this model has none; give --adapter, or a run of LoRA`,
    );
  const device = await openDevice(flags);
  try {
    const scorer = await openScorer(device.executor, { ...options, adapter: null }, reading);
    const breathe = createBreath(signal);
    try {
      for (let index = 0; index < batches.count(0); index++) {
        await breathe();
        addReferences(references, batches.batch(0, index), scorer.tokenLosses);
      }
    } finally {
      scorer.close();
    }
  } finally {
    device.close();
  }
  return withReferences(batches, references);
}
