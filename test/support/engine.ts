import { randomCheckpoint } from "../../bench/shapes.ts";
import type { ModelConfig } from "../../src/models/config.ts";
import { parseConfig } from "../../src/models/families/index.ts";
import { type Tuning, uniformAdapters } from "../../src/models/tuning.ts";
import { createRandom } from "../../src/base/random.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { readTensor } from "../../src/runtime/resident.ts";
import { chooseOptimizer } from "../../src/optimizers/index.ts";
import type { Engine, EngineOptions } from "../../src/train/step/engine.ts";
import { openEngine } from "../../src/train/step/open-engine.ts";
import type { StoredWeightsOptions } from "../../src/load/stored/stored-weights.ts";
import type { Checkpointing } from "../../src/train/memory/step-plan.ts";
import { initialiseAdapter } from "../../src/load/adapter.ts";
import { isAdapter } from "../../src/models/adapters/names.ts";
import { createWasmExecutor, type WasmExecutorOptions } from "../../src/wasm/executor.ts";
import { THREADS } from "./slow.ts";

const executors: Executor[] = [];

/** To be called after all tests of a file. */
export function closeExecutors(): void {
  for (const executor of executors.splice(0)) executor.close();
}

async function executor(options: WasmExecutorOptions): Promise<Executor> {
  const made = await createWasmExecutor(options);
  executors.push(made);
  return made;
}

/** A small Llama; `overrides` are keys of config.json. */
export function llama(layers: number, hidden = 32, overrides: Record<string, unknown> = {}): ModelConfig {
  return parseConfig(
    {
      architectures: ["LlamaForCausalLM"],
      model_type: "llama",
      hidden_size: hidden,
      intermediate_size: 2 * hidden,
      num_hidden_layers: layers,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      vocab_size: 67,
      max_position_embeddings: 256,
      rms_norm_eps: 1e-5,
      tie_word_embeddings: true,
      ...overrides,
    },
    "test",
  );
}

/** Two examples in one row of `tokens` tokens, the first third of each without a target. */
export function packedBatch(tokens: number, vocabulary: number) {
  const random = createRandom(7, "batch");
  const ids = Int32Array.from({ length: tokens }, () => random.below(vocabulary));
  const split = Math.floor(tokens * 0.4);
  const starts = Int32Array.from(ids, (_, t) => (t < split ? 0 : split));
  const positions = Int32Array.from(ids, (_, t) => t - starts[t]!);
  const last = (t: number) => t === split - 1 || t === tokens - 1;
  const labels = Int32Array.from(ids, (_, t) => (last(t) || positions[t]! < 5 ? -100 : ids[t + 1]!));
  return { ids, labels, starts, positions, labelled: labels.filter((label) => label >= 0).length };
}

export const lora = (dropout: number, rank = 4): Tuning =>
  uniformAdapters({
    rank,
    scale: 1.5,
    dropout,
    targets: new Set(["q_proj", "v_proj", "o_proj", "up_proj", "down_proj"]),
  });

/** An engine on random weights whose adapters are not zero. */
export async function build(
  config: ModelConfig,
  tuning: Tuning,
  strategy: Checkpointing,
  tokens: number,
  threads: number | WasmExecutorOptions = THREADS,
  more: Partial<EngineOptions> = {},
  stored: StoredWeightsOptions = { cache: false },
): Promise<Engine> {
  const source = randomCheckpoint(config, "f32");
  const options = { config, source, tuning, strategy, tokens: [tokens], optimizer: chooseOptimizer({}), ...more };
  const made = await executor(typeof threads === "number" ? { threads } : threads);
  const engine = await openEngine(made, options, (plan) => plan(), stored);
  initialiseAdapter(engine, 3);
  // B = 0 (of an embedding A = 0) would leave the other one without a gradient.
  const isZero = ({ name }: { name: string }) => /lora_(B\.weight|embedding_A)$/.test(name);
  for (const param of engine.resident.params.filter((info) => isAdapter(info) && isZero(info))) {
    const random = createRandom(5, param.name);
    const values = Float32Array.from({ length: param.type.shape[0]! * param.type.shape[1]! }, () => 0.1 * random.normal());
    engine.executor.write(engine.resident.param.get(param.name)!, new Uint8Array(values.buffer));
  }
  return engine;
}

/** Loss and all gradients of two accumulated micro-batches. */
export function gradients(engine: Engine, tokens: number): { losses: number[]; values: Map<string, Float32Array> } {
  const batch = packedBatch(tokens, engine.config.vocabSize);
  engine.zeroGradients();
  const losses = [0, 1].map((draw) => engine.forwardBackward(batch, 0.5 / batch.labelled, 11, draw));
  const trainable = engine.resident.params.filter((param) => param.trainable);
  return {
    losses,
    values: new Map(
      trainable.map((param) => [param.name, readTensor(engine.executor, engine.resident.gradient.get(param.name)!, param.type)]),
    ),
  };
}
