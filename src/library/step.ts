import { z } from "zod";
import { openDevice } from "../device.ts";
import { ADAPTER_KEYS } from "../models/adapters/index.ts";
import { initialiseAdapter, writeAdapterWeights } from "../load/adapter.ts";
import { isOnDisk } from "../load/streamed-weights.ts";
import { storageOf } from "../load/weights.ts";
import { openModel } from "../load/open-model.ts";
import { writeSafetensors } from "../hf/weights/safetensors-write.ts";
import { CHECKPOINTING_KEYS, checkQuantize, STORAGE_KEYS, trainConfigSchema } from "../train/config.ts";
import { explainingLimit, limitedMemory } from "../train/memory/limit.ts";
import { offloadOf } from "../train/memory/offload.ts";
import { streamOf } from "../train/memory/stream.ts";
import { checkpointingOf, selectiveOf } from "../train/memory/strategy.ts";
import { openEngine } from "../train/step/open-engine.ts";
import { readStepBatch } from "../train/step/step-batch.ts";
import { stepGradients } from "../train/step/step-gradients.ts";
import { tuningOf, tuningOfAdapter, withAdapter } from "../train/step/tuning.ts";
import { type CallOptions, MODEL_OPTIONS, validateOptions } from "./options.ts";

export const stepOptionsSchema = trainConfigSchema
  .pick({
    model: true,
    method: true,
    ...ADAPTER_KEYS,
    targets: true,
    modulesToSave: true,
    lastLayers: true,
    seed: true,
    ...CHECKPOINTING_KEYS,
    device: true,
    ...STORAGE_KEYS,
    threads: true,
    matmul: true,
  })
  .omit({ dropout: true })
  .extend({
    model: MODEL_OPTIONS.model,
    batch: z
      .string()
      .min(1)
      .describe(
        "safetensors file: input_ids, labels (-100 = masked), optional attention_mask, position_ids and token_type_ids, int64 [sequences, length]",
      ),
    out: z.string().min(1).describe("safetensors file to write: loss, and the gradient of every trainable parameter"),
    adapter: z.string().min(1).optional().describe("PEFT adapter folder (default: a fresh adapter from the seed)"),
  });

export type StepOptions = z.input<typeof stepOptionsSchema>;

export interface StepResult {
  /** Mean over the labelled tokens, in nats. */
  readonly loss: number;
  readonly labelled: number;
  /** Gradients in the file. */
  readonly gradients: number;
  /** The factor of the gradients on their way in f16; else 1. */
  readonly lossScale: number;
  /** Bytes. */
  readonly predictedPeak: number;
  readonly measuredPeak: number;
  /** ONNX Runtime's temporary memory, which is in both peaks. */
  readonly temporary: number;
}

/**
 * One forward and backward pass without an update, for checking against other systems: writes the loss and every gradient.
 * @throws {UserError} anything in options, model or batch that is missing or does not fit
 */
export async function step(options: StepOptions, { sink = () => {} }: Pick<CallOptions, "sink"> = {}): Promise<StepResult> {
  const config = validateOptions(stepOptionsSchema, options);
  checkQuantize(config);
  const model = await openModel(config, {
    onNote: (text) => sink({ type: "note", text }),
    predicts: "given labels",
  });
  const { source, adapter } = model;
  try {
    const batch = readStepBatch(config.batch, model.config);
    if (adapter) withAdapter(config, adapter, model.config, Object.keys(options));
    const device = await openDevice(config);
    const { executor } = device;
    if (device.notice !== null) sink({ type: "note", text: device.notice });
    try {
      const strategy = checkpointingOf(config, limitedMemory(executor, config));
      const engine = await openEngine(
        executor,
        {
          config: model.config,
          source,
          tuning: adapter ? tuningOfAdapter(adapter, model.config, config) : tuningOf(config, model.config, source),
          strategy,
          selective: selectiveOf(config),
          verifyReplay: config.verifyReplay,
          stream: streamOf(config, executor, strategy, (param) => isOnDisk(source, param), config.out),
          ...storageOf(config),
          offload: offloadOf(config, config.out),
          tokens: [batch.ids.length],
          weighted: batch.weights !== null,
          optimizer: null,
        },
        (plan) => explainingLimit(config.memory, strategy, plan),
        { cache: config.weightCache, onNote: (text) => sink({ type: "note", text }) },
      );
      if (adapter) writeAdapterWeights(engine, adapter);
      else initialiseAdapter(engine, config.seed);
      const { loss, lossScale, gradients } = stepGradients(engine, batch, config.seed);
      writeSafetensors(config.out, [{ name: "loss", dtype: "f32", shape: [], data: Float32Array.of(loss) }, ...gradients]);
      engine.close();
      return {
        loss,
        labelled: batch.labelled,
        gradients: gradients.length,
        lossScale,
        predictedPeak: engine.predicted.peak,
        measuredPeak: engine.measuredPeak,
        temporary: executor.temporary?.bytes ?? 0,
      };
    } finally {
      device.close();
    }
  } finally {
    model.close();
  }
}
