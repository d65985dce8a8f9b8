import { createCoordinator } from "../../src/train/nodes/coordinator.ts";
import type { FromWorker, WorkerLink } from "../../src/train/nodes/messages.ts";
import { fakeVector, gradientsOf, partOf, PREPARE } from "./nodes.ts";

/** Elements of a vector of which the test of times looks at none. */
const SIZE = 1;

/** A node in simulated time, ms. */
export interface SimulatedNode {
  /** When it has loaded the model. */
  readonly ready: number;
  /** The time of its n-th micro-batch, from 0. */
  time(n: number): number;
}

export interface SimulatedStep {
  readonly ms: number;
  /** Micro-batches that each worker has finished in it. */
  readonly learned: readonly number[];
}

/**
 * Steps of a coordinator in simulated time. While it computes it hears nothing, as in a process, whose event loop stands still then.
 * @param own the time of a micro-batch at the coordinator
 */
export async function simulateSteps(
  steps: number,
  count: number,
  own: (step: number) => number,
  nodes: readonly SimulatedNode[],
): Promise<SimulatedStep[]> {
  let time = 0;
  const workers = nodes.map((node) => simulatedWorker(node, () => time));
  const hear = async () => {
    for (const worker of workers) worker.hear();
  };
  const { vector, zeroGradients } = fakeVector(SIZE);
  const coordinator = createCoordinator({
    vector,
    encoding: "f32",
    zeroGradients,
    prepare: PREPARE,
    warn: () => {},
    now: () => time,
    hear,
  });
  for (const [i, { link }] of workers.entries()) coordinator.add(`worker ${i + 1}`, link);
  // It goes off only while the coordinator waits: time goes on to what happens next.
  const resting = setInterval(() => {
    const next = Math.min(...workers.map((worker) => worker.next()));
    if (next < Infinity) time = Math.max(time, next);
    void hear();
  }, 1);
  const done: SimulatedStep[] = [];
  try {
    for (let step = 1; step <= steps; step++) {
      const begin = time;
      const before = workers.map(({ learned }) => learned());
      await coordinator.learn({ step, draw: count * step, count, total: 1, factor: 1 }, ({ index }) => {
        time += own(step);
        return Promise.resolve(partOf(step, index));
      });
      done.push({ ms: time - begin, learned: workers.map(({ learned }, i) => learned() - before[i]!) });
    }
    return done;
  } finally {
    clearInterval(resting);
    await coordinator.close();
  }
}

function simulatedWorker({ ready, time }: SimulatedNode, now: () => number) {
  let handlers: Parameters<WorkerLink["listen"]>[0];
  let tasks: { readonly step: number; readonly index: number; readonly at: number }[] = [];
  let [isReady, freeAt, learned] = [false, ready, 0];
  const tell = (message: FromWorker) => handlers.message(message);
  /** When the first of its tasks begins, and when it ends. */
  const begins = () => Math.max(freeAt, tasks[0]!.at);
  const ends = () => (tasks.length === 0 ? Infinity : begins() + time(learned));
  const link: WorkerLink = {
    send(message) {
      if (message.type === "learn") tasks.push({ ...message, at: now() });
      if (message.type !== "drop") return;
      const isVoid = (task: (typeof tasks)[number], i: number) =>
        task.step === message.step && (message.index ?? task.index) === task.index && (i > 0 || begins() >= now());
      const isKept = tasks.map((task, i) => !isVoid(task, i));
      const dropped = tasks.filter((_, i) => !isKept[i]);
      tasks = tasks.filter((_, i) => isKept[i]);
      // It answers later, as over a channel.
      queueMicrotask(() => {
        for (const { step, index } of dropped) tell({ type: "dropped", step, index });
      });
    },
    listen: (given) => void (handlers = given),
    close: () => {},
  };
  return {
    link,
    learned: () => learned,
    /** When something happens next. */
    next: () => (isReady ? ends() : ready),
    /** Tells what has happened by now. */
    hear() {
      if (!isReady && ready <= now()) {
        isReady = true;
        tell({ type: "ready" });
      }
      while (ends() <= now()) {
        const { step, index } = tasks[0]!;
        const seconds = time(learned) / 1000;
        freeAt = ends();
        tasks.shift();
        learned++;
        tell({
          type: "learned",
          step,
          index,
          part: partOf(step, index),
          seconds,
          encoding: "f32",
          values: new Uint8Array(gradientsOf(step, index, SIZE).buffer),
        });
      }
    },
  };
}
