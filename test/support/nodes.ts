import type { Encoding } from "../../src/base/codes.ts";
import { createRests } from "../../src/train/nodes/rests.ts";
import type { EarlierOrder, FromWorker, Part, ToWorker, WorkerLink } from "../../src/train/nodes/messages.ts";
import type { TrainedVector } from "../../src/train/nodes/trained-vector.ts";
import { trainConfigSchema } from "../../src/train/config.ts";

/** A trained vector without an engine, whose gradients a micro-batch adds to. */
export function fakeVector(size: number) {
  const parameters = new Float32Array(size).fill(1);
  const gradients = new Float32Array(size);
  const vector: TrainedVector = {
    size,
    parameters: () => new Uint8Array(parameters.slice().buffer),
    setParameters: (values) => parameters.set(new Float32Array(values.slice().buffer)),
    gradients: () => gradients.slice(),
    setGradients: (values) => gradients.set(values),
  };
  return { vector, parameters, gradients, zeroGradients: () => void gradients.fill(0) };
}

/** Gradients of micro-batch `index` of a step: numbers of which sums in another order are others. */
export const gradientsOf = (step: number, index: number, size: number): Float32Array<ArrayBuffer> =>
  Float32Array.from({ length: size }, (_, i) => Math.fround(Math.sin(1 + step + 7 * index + i) * 10 ** ((5 * index + i) % 7)));

/** Gradients that depend on the parameters too, as a model's do. */
export const gradientsAt = (parameters: Float32Array, step: number, index: number): Float32Array<ArrayBuffer> =>
  gradientsOf(step, index, parameters.length).map((value, i) => value * parameters[i]!);

export const partOf = (step: number, index: number): Part => ({ loss: step + index / 8, sums: { n: index } });

export function sumOf(step: number, count: number, size: number): Float32Array {
  const sum = new Float32Array(size);
  for (let index = 0; index < count; index++) {
    const gradients = gradientsOf(step, index, size);
    for (let i = 0; i < size; i++) sum[i] = Math.fround(sum[i]! + gradients[i]!);
  }
  return sum;
}

/** Describes how a worker without an engine behaves. */
export interface FakeBehaviour {
  /** Milliseconds of a micro-batch. */
  readonly ms?: number;
  /** It dies when it begins with its n-th order, from 1. */
  readonly diesAt?: number;
  /** It never answers from its n-th order on. */
  readonly hangsAt?: number;
  /** It sends so many numbers instead of all. */
  readonly sends?: number;
  readonly encoding?: Encoding;
}

/** A worker without an engine. */
export function fakeWorker(size: number, { ms = 1, diesAt, hangsAt, sends = size, encoding = "f32" }: FakeBehaviour = {}) {
  let handlers: Parameters<WorkerLink["listen"]>[0];
  let tasks: Extract<ToWorker, { type: "learn" }>[] = [];
  let [busy, begun, closed] = [false, 0, false];
  /** Steps whose parameters it was told. */
  const told: number[] = [];
  const learned: number[] = [];
  const rests = createRests(encoding);
  const parameters = new Map<number, Float32Array>();
  const answer = (message: FromWorker) => !closed && handlers.message(message);
  const work = async () => {
    if (busy) return;
    busy = true;
    for (let task = tasks.shift(); task; task = tasks.shift()) {
      begun++;
      if (begun === diesAt) {
        closed = true;
        handlers.closed("killed");
      }
      if (closed || (hangsAt !== undefined && begun >= hangsAt)) return;
      await Bun.sleep(ms);
      const { step, index } = task;
      learned.push(index);
      const learn = (order: EarlierOrder) =>
        rests.encode(order, gradientsAt(parameters.get(order.step)!, order.step, order.index).slice(0, sends));
      for (const before of task.earlier) learn(before);
      const { encoding: as, bytes: values } = learn(task);
      answer({ type: "learned", step, index, part: partOf(step, index), seconds: ms / 1000, encoding: as, values });
    }
    busy = false;
  };
  const link: WorkerLink = {
    send(message) {
      // As over a channel: nothing is heard while the sender is still at work.
      setTimeout(() => {
        if (message.type === "prepare") answer({ type: "ready" });
        else if (message.type === "parameters") {
          told.push(message.step);
          parameters.set(message.step, new Float32Array(message.values.slice().buffer));
        } else if (message.type === "drop") {
          const isVoid = ({ step, index }: { step: number; index: number }) =>
            step === message.step && (message.index ?? index) === index;
          for (const { step, index } of tasks.filter(isVoid)) answer({ type: "dropped", step, index });
          tasks = tasks.filter((task) => !isVoid(task));
        } else {
          tasks.push(message);
          void work();
        }
      }, 0);
    },
    listen: (given) => void (handlers = given),
    close: () => void (closed = true),
  };
  return { link, told, learned };
}

export const PREPARE: Extract<ToWorker, { type: "prepare" }> = {
  type: "prepare",
  config: trainConfigSchema.parse({ model: "m", data: "d" }),
  given: [],
  fingerprint: "f",
  numerics: "n",
};
