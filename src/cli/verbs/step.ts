import { z } from "zod";
import { openDevice } from "../../device.ts";
import { writeAdapterWeights } from "../../load/adapter.ts";
import { loadConfig } from "../../hf/config/config.ts";
import { readAdapter } from "../../hf/peft/peft.ts";
import { openModelWeights, visionNote } from "../../hf/weights/model-weights.ts";
import { writeSafetensors } from "../../hf/weights/safetensors-write.ts";
import { CHECKPOINTING_KEYS, checkQuantize, STORAGE_KEYS, trainConfigSchema } from "../../train/config.ts";
import { createEngine } from "../../train/step/engine.ts";
import { explainingLimit, limitedMemory } from "../../train/memory/limit.ts";
import { formatBytes } from "../../base/bytes.ts";
import { checkpointingOf, selectiveOf } from "../../train/memory/strategy.ts";
import { offloadOf } from "../../train/memory/offload.ts";
import { readStepBatch } from "../../train/step/step-batch.ts";
import { stepGradients } from "../../train/step/step-gradients.ts";
import { tuningOf, tuningOfAdapter, withAdapter } from "../../train/step/tuning.ts";
import { initialiseAdapter, storageOf } from "../../load/weights.ts";
import { findModel } from "../../load/find-model.ts";
import { validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseOnlyFlags } from "../flags/flags.ts";
import { MODEL_FLAGS } from "../flags/model-flags.ts";
import { temporaryText } from "../terminal/progress.ts";

const schema = trainConfigSchema
  .pick({
    model: true,
    method: true,
    rank: true,
    alpha: true,
    rslora: true,
    targets: true,
    lastLayers: true,
    seed: true,
    ...CHECKPOINTING_KEYS,
    device: true,
    ...STORAGE_KEYS,
    threads: true,
    matmul: true,
  })
  .extend({
    model: MODEL_FLAGS.model,
    batch: z
      .string()
      .min(1)
      .describe(
        "safetensors file: input_ids, labels (-100 = masked), optional attention_mask and position_ids, int64 [sequences, length]",
      ),
    out: z.string().min(1).describe("safetensors file to write: loss, and the gradient of every trainable parameter"),
    adapter: z.string().min(1).optional().describe("PEFT adapter folder (default: a fresh adapter from the seed)"),
  });

export { schema as flags };

export function help(): string {
  return `One forward and backward pass without an update, for checking against other systems.

Usage: remat step --model DIR --batch FILE --out FILE [--flag value ...]

${describeFlags(schema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const values = parseOnlyFlags("step", schema, args);
  const config = validateConfig(schema, values);
  checkQuantize(config);
  const { folder, adapter: adapterFolder } = await findModel(config);
  const model = loadConfig(folder);
  const batch = readStepBatch(config.batch, model);
  const adapter = adapterFolder === null ? null : readAdapter(adapterFolder, model);
  if (adapter) withAdapter(config, adapter, model, Object.keys(values));
  const source = openModelWeights(folder, model);
  const note = visionNote(source);
  if (note !== null) process.stderr.write(`note: ${note}\n`);
  const device = await openDevice(config);
  const { executor } = device;
  if (device.notice !== null) process.stderr.write(`${device.notice}\n`);
  try {
    const strategy = checkpointingOf(config, limitedMemory(executor, config));
    const engine = explainingLimit(config.memory, strategy, () =>
      createEngine(executor, {
        config: model,
        source,
        tuning: adapter ? tuningOfAdapter(adapter, 0) : tuningOf({ ...config, dropout: 0 }, model),
        strategy,
        selective: selectiveOf(config),
        verifyReplay: config.verifyReplay,
        ...storageOf(config),
        offload: offloadOf(config, config.out),
        tokens: [batch.ids.length],
        weighted: batch.weights !== null,
        optimizer: false,
      }),
    );
    if (config.method === "lora") {
      if (adapter) writeAdapterWeights(executor, engine.resident, adapter, adapter.scale);
      else initialiseAdapter(executor, engine.resident, config.seed);
    }
    const { loss, lossScale, gradients } = stepGradients(engine, batch, config.seed);
    writeSafetensors(config.out, [{ name: "loss", dtype: "f32", shape: [], data: Float32Array.of(loss) }, ...gradients]);
    engine.close();
    console.log(
      `loss ${loss.toFixed(6)} over ${batch.labelled} tokens; ${gradients.length} gradients in ${config.out}${lossScale === 1 ? "" : `, computed ${lossScale} times as large`}; ` +
        `peak memory predicted ${formatBytes(engine.predicted.peak)}, measured ${formatBytes(engine.measuredPeak)}${temporaryText(executor.temporary?.bytes ?? 0)}`,
    );
  } finally {
    device.close();
    source.close();
    adapter?.source.close();
  }
  return 0;
}
