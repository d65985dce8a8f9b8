import { writeFileSync } from "node:fs";
import { UserError } from "../../base/errors.ts";
import { flagName } from "../../base/names.ts";
import { createBreath } from "../../base/process/event-loop.ts";
import { openDevice } from "../../device.ts";
import { byteLength } from "../../graph/types.ts";
import { expectTensor, openSafetensors } from "../../hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../hf/weights/safetensors-write.ts";
import { findModel } from "../../load/find-model.ts";
import { isTransposed } from "../../models/adapters/index.ts";
import { transpose } from "../../models/adapters/low-rank.ts";
import { addSums, type Sums } from "../../objectives/objective.ts";
import { trainedTensors } from "../../optimizers/plan.ts";
import { fillPieces, PIECE, readPieces } from "../../runtime/executor.ts";
import { readTensor } from "../../runtime/resident.ts";
import { checkQuantize, type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { exportTrained } from "../../train/run/export/export.ts";
import { createSession, readInputs, type Session } from "../../train/run/session.ts";
import type { Engine } from "../../train/step/engine.ts";
import { createLearner, type Learner } from "../../train/step/learner.ts";
import { learningRate } from "../../train/step/learning-rate.ts";
import { layoutOfParams } from "./first-model.ts";
import type { NodeNumbers } from "./messages.ts";
import type { PrivateSteps } from "./privacy/accountant.ts";
import { createPrivateSum, type PrivateRandom } from "./privacy/noise.ts";
import type { Federation } from "./settings.ts";
import { type Layout, type Part, valuesOf } from "./updates/layout.ts";

/** Where a node's own training stands. */
export interface LocalPosition {
  /** Micro-batches drawn: the place in the data, and the key of dropout. */
  readonly draw: number;
  /** Steps of the node's optimizer. */
  readonly count: number;
}

export interface LearnTask {
  readonly steps: number;
  /** The number of steps that a node has made by now which was in every round: learning rates are those of a single long run. */
  readonly done: number;
  readonly position: LocalPosition;
  readonly signal?: AbortSignal | undefined;
}

export interface Learned {
  readonly loss: number;
  readonly tokens: number;
  readonly position: LocalPosition;
  /** The privacy that was spent; null without DP-SGD. */
  readonly spent: PrivateSteps | null;
}

/** A node's model, data and optimizer. */
export interface LocalTraining {
  readonly layout: Layout;
  /** Training examples. */
  readonly examples: number;
  read(): Float32Array<ArrayBuffer>;
  write(model: Float32Array<ArrayBuffer>): void;
  /** Measures the model on the held-out examples; null: there are none. */
  evaluate(signal?: AbortSignal): Promise<NodeNumbers | null>;
  /** @throws {UserError} training that diverges */
  learn(task: LearnTask): Promise<Learned>;
  /** Writes the optimizer's state, and reads it back. */
  save(file: string): void;
  load(file: string): void;
  /** Writes the model as an adapter folder. */
  export(folder: string): void;
  close(): void;
}

/** The keys of a node's own: files, devices and memory. */
export type OwnSettings = Partial<TrainConfig> & Pick<TrainConfig, "data" | "output">;

export interface LocalOptions {
  readonly random: PrivateRandom;
  readonly signal?: AbortSignal | undefined;
  readonly onNote?: ((text: string) => void) | undefined;
}

/**
 * Opens a node's model and data as a federation wants them.
 * @throws {UserError} another model than the coordinator's, examples that do not fit
 */
export async function openLocalTraining(
  federation: Federation,
  own: OwnSettings,
  { random, signal, onNote }: LocalOptions,
): Promise<LocalTraining> {
  const { privacy, training, rounds, localSteps } = federation;
  const model = own.model ?? federation.model.hub;
  if (model === null)
    throw new UserError(
      `--model: it is missing; the coordinator has ${federation.model.name} in a folder of its own: name the folder here`,
    );
  const config: TrainConfig = {
    ...trainConfigSchema.parse({ ...definedOf(training), ...definedOf(own), model, sample: false }),
    steps: rounds * localSteps,
    // An example is a micro-batch, and its gradient is clipped by itself.
    ...(privacy && { batchSize: 1, gradientAccumulation: 1, packing: false, clip: 0 }),
  };
  checkQuantize(config);
  const found = await findModel(config);
  const inputs = await readInputs({ ...config, model: found.name }, found.folder, { given: ["method"], signal, onNote });
  const { identity } = inputs;
  for (const key of ["config", "weights", "tokenizer"] as const) {
    if (identity[key] === federation.model[key]) continue;
    inputs.close();
    throw new UserError(
      `--model ${config.model} is another base model than the coordinator's (${federation.model.name}): their ${key === "config" ? "config.json" : key === "tokenizer" ? "tokenizers" : "weights"} differ (SHA-256 ${identity[key].slice(0, 12)} and ${federation.model[key].slice(0, 12)})`,
    );
  }
  let device: Awaited<ReturnType<typeof openDevice>> | null = null;
  let session: Session | null = null;
  const close = () => {
    session?.engine.close();
    device?.close();
    inputs.close();
  };
  try {
    device = await openDevice(config);
    session = await createSession(device.executor, inputs, { signal, onWarning: onNote, onMessage: onNote });
    const { engine } = session;
    if (engine.compute === "f16")
      throw new UserError(`a federation does not compute in f16; got ${flagName("dtype")} f16, choose bf16 or f32`);
    if (engine.gradients)
      throw new UserError("a federation needs what is trained in memory; give more --memory, or --stream off");
    return { ...localTraining(session, config, federation, random), close };
  } catch (error) {
    close();
    throw error;
  }
}

const definedOf = (values: object): Record<string, unknown> =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined));

/** Parameters, or gradients, as one vector in the order of PEFT's files. */
function vectorOf({ executor, resident }: Engine, layout: Layout, kind: "param" | "gradient") {
  const infos = new Map(resident.params.map((info) => [info.name, info]));
  const of = ({ name }: Part) => ({ info: infos.get(name)!, address: resident[kind].get(name)! });
  return {
    read(): Float32Array<ArrayBuffer> {
      const vector = new Float32Array(layout.size);
      for (const part of layout.parts) {
        const { info, address } = of(part);
        const values = readTensor(executor, address, info.type);
        const [rows, columns] = info.type.shape as [number, number];
        valuesOf(vector, part).set(isTransposed(part.name) ? transpose(values, rows, columns) : values);
      }
      return vector;
    },
    write(vector: Float32Array<ArrayBuffer>): void {
      for (const part of layout.parts) {
        const values = valuesOf(vector, part);
        const [rows, columns] = part.shape as [number, number];
        const ordered = isTransposed(part.name) ? transpose(values, rows, columns) : values;
        executor.write(of(part).address, new Uint8Array(ordered.buffer, ordered.byteOffset, ordered.byteLength));
      }
    },
  };
}

function localTraining(
  session: Session,
  config: TrainConfig,
  federation: Federation,
  random: PrivateRandom,
): Omit<LocalTraining, "close"> {
  const { engine, optimizer, data, inputs } = session;
  const learner = createLearner(engine, inputs.objective.head);
  const layout = layoutOfParams(engine.resident.params);
  const parameters = vectorOf(engine, layout, "param");
  const state = trainedTensors(engine.resident.trainable, engine.optimizer!).filter(({ name }) => !name.startsWith("param/"));
  const learnStep = federation.privacy
    ? privateSteps(session, learner, layout, federation, random)
    : plainSteps(session, learner, federation);
  return {
    layout,
    examples: inputs.train.count,
    ...parameters,
    async evaluate(signal) {
      if (data.valid.length === 0) return null;
      const breathe = createBreath(signal);
      let sums: Sums | null = null;
      let labelled = 0;
      for (const batch of data.valid) {
        await breathe();
        sums = addSums(sums, learner.evaluate(batch));
        labelled += batch.labelled;
      }
      const { loss, metrics } = learner.head.values(sums!);
      if (!Number.isFinite(loss))
        throw new UserError(`the held-out loss is ${loss}: the common model has diverged; lower the learning rates`);
      return { loss, labelled, metrics: { ...metrics } };
    },
    async learn({ steps, done, position, signal }) {
      const breathe = createBreath(signal);
      const total = federation.rounds * federation.localSteps;
      let [loss, tokens, { draw, count }] = [0, 0, position];
      for (let step = 0; step < steps; step++) {
        session.collect();
        optimizer.zeroGradients();
        const part = await learnStep.gradients(draw, breathe);
        const rate = learningRate({ ...config, learningRate: optimizer.learningRate }, done + step, total);
        const norm = optimizer.step(++count, rate);
        if (!Number.isFinite(norm) || !Number.isFinite(part.loss))
          throw new UserError(
            `step ${done + step + 1}: the loss is ${part.loss} and the gradient norm ${norm}; training diverged. The coordinator should lower --learning-rate (now ${optimizer.learningRate})`,
          );
        draw += part.draws;
        loss += part.loss / steps;
        tokens += part.tokens;
        await Bun.sleep(0);
        signal?.throwIfAborted();
      }
      return { loss, tokens, position: { draw, count }, spent: learnStep.spent(steps) };
    },
    save(file) {
      const piece = new Uint8Array(PIECE);
      const tensors = state.map(({ name, type, address }): TensorData => ({
        name,
        ...type,
        data: { pieces: () => readPieces(engine.executor, address, byteLength(type), piece) },
      }));
      // An optimizer without a state has nothing to write.
      if (tensors.length === 0) writeFileSync(file, "");
      else writeSafetensors(file, tensors);
    },
    load(file) {
      if (state.length === 0) return;
      const source = openSafetensors(file);
      try {
        for (const { name, type, address } of state) {
          const entry = expectTensor(source, name, type.shape, [type.dtype]);
          fillPieces(engine.executor, address, byteLength(type), (target, at) => source.read(entry, target, at));
        }
      } finally {
        source.close();
      }
    },
    export: (folder) => exportTrained(folder, engine, config),
  };
}

/** The gradients of one step, left where the optimizer looks for them. */
interface StepSource {
  gradients(
    draw: number,
    breathe: () => unknown,
  ): Promise<{ readonly loss: number; readonly tokens: number; readonly draws: number }>;
  spent(steps: number): PrivateSteps | null;
}

function plainSteps({ data }: Session, learner: Learner, { training: { gradientAccumulation, seed } }: Federation): StepSource {
  return {
    async gradients(draw, breathe) {
      const group = Array.from({ length: gradientAccumulation }, (_, i) => {
        const { epoch, index } = data.train.locate(draw + i);
        return data.train.batch(epoch, index);
      });
      const total = group.reduce((sum, batch) => sum + learner.head.share(batch), 0);
      learner.prepare?.(group);
      let loss = 0;
      for (const [i, batch] of group.entries()) {
        await breathe();
        loss += learner.learn(batch, total, seed, draw + i).loss;
      }
      return { loss, tokens: group.reduce((sum, { used }) => sum + used, 0), draws: group.length };
    },
    spent: () => null,
  };
}

/**
 * DP-SGD (Abadi et al. 2016, https://arxiv.org/abs/1607.00133): each example takes part in a step with one probability, by itself, as the accountant has it;
 * its gradient is clipped; noise is added to the sum. A step may have no example at all, and has noise all the same.
 */
function privateSteps(
  { engine, data, inputs }: Session,
  learner: Learner,
  layout: Layout,
  { privacy, training }: Federation,
  random: PrivateRandom,
): StepSource {
  const { clip, noise } = privacy!;
  const gradient = vectorOf(engine, layout, "gradient");
  const sum = createPrivateSum(layout.size, { clip, noise, random });
  const examples = inputs.train.count;
  // Rows that are not packed: a micro-batch is an example.
  if (data.train.count(0) !== examples) throw new Error(`${data.train.count(0)} micro-batches of ${examples} examples`);
  const expected = Math.min(examples, training.batchSize * training.gradientAccumulation);
  const rate = expected / examples;
  return {
    async gradients(draw, breathe) {
      let [loss, tokens, drawn] = [0, 0, 0];
      for (let index = 0; index < examples; index++) {
        if (random.uniform() >= rate) continue;
        await breathe();
        const batch = data.train.batch(0, index);
        engine.zeroGradients();
        learner.prepare?.([batch]);
        loss += learner.learn(batch, learner.head.share(batch), training.seed, draw + drawn++).loss;
        tokens += batch.used;
        sum.add(gradient.read());
      }
      gradient.write(sum.finish(expected));
      return { loss: drawn === 0 ? 0 : loss / drawn, tokens, draws: drawn };
    },
    spent: (steps) => ({ rate, noise, steps }),
  };
}
