import { createBreath, hear } from "../../base/process/event-loop.ts";
import { withCleanup } from "../../base/process/cleanup.ts";
import { messageOf, UserError } from "../../base/errors.ts";
import { openDevice } from "../../device.ts";
import { findModel } from "../../load/find-model.ts";
import { compareFingerprints, fingerprint } from "../fingerprint.ts";
import type { CoordinatorLink, EarlierOrder, Order, ToWorker } from "../nodes/messages.ts";
import { numericsDifference, numericsOf } from "../nodes/numerics.ts";
import { createRests } from "../nodes/rests.ts";
import { trainedVector } from "../nodes/trained-vector.ts";
import { openLearning, readInputs } from "../run/session.ts";
import { createLearner } from "../step/learner.ts";

type Prepare = Extract<ToWorker, { type: "prepare" }>;

/** What a worker has been told and has not done yet. */
type Task = Exclude<ToWorker, { type: "prepare" | "drop" }>;

/**
 * Computes gradients for the run at the other end of a link, until the link is closed. Nothing of the run is written here.
 * What goes wrong is told over the link, and ends the work.
 */
export async function serveGradients(link: CoordinatorLink): Promise<void> {
  const asked = Promise.withResolvers<Prepare | null>();
  let tasks: Task[] = [];
  let isClosed = false;
  let wake = () => {};
  const controller = new AbortController();
  link.listen({
    message(message) {
      if (message.type === "prepare") asked.resolve(message);
      else if (message.type === "drop") {
        const isVoid = (task: Task) =>
          task.type === "learn" && task.step === message.step && (message.index ?? task.index) === task.index;
        for (const task of tasks.filter(isVoid)) link.send({ type: "dropped", step: task.step, index: (task as Order).index });
        tasks = tasks.filter((task) => !isVoid(task));
      } else tasks.push(message);
      wake();
    },
    closed() {
      isClosed = true;
      controller.abort();
      asked.resolve(null);
      wake();
    },
  });
  const prepare = await asked.promise;
  if (prepare === null) return;
  const nextTask = async (): Promise<Task | null> => {
    for (;;) {
      // Orders may have been taken back meanwhile.
      await hear();
      const task = isClosed ? undefined : tasks.shift();
      if (task || isClosed) return task ?? null;
      const { promise, resolve } = Promise.withResolvers<void>();
      wake = resolve;
      await promise;
    }
  };
  try {
    await withCleanup(async (defer) => {
      const { learn, setParameters } = await openWorker(prepare, controller.signal, defer);
      link.send({ type: "ready" });
      for (let task = await nextTask(); task !== null; task = await nextTask()) {
        if (task.type === "parameters") setParameters(task.step, task.values);
        else link.send({ type: "learned", step: task.step, index: task.index, ...learn(task) });
      }
    });
  } catch (error) {
    if (isClosed) return;
    link.send({
      type: "failed",
      message: error instanceof UserError ? error.message : `${messageOf(error)} (an error of Remat's)`,
    });
  }
}

/** Opens the model and the data of a run as the coordinator has. @throws {UserError} others than there */
async function openWorker(prepare: Prepare, signal: AbortSignal, defer: (close: () => unknown) => void) {
  const { config, given } = prepare;
  const found = await findModel(config);
  const breathe = createBreath(signal);
  const inputs = await readInputs(config, found.folder, { signal, given });
  defer(inputs.close);
  const { other } = compareFingerprints(prepare.fingerprint, fingerprint(inputs.config, inputs));
  if (other) throw new UserError(`it has ${other.has || "none of that"} where the run has ${other.had || "none of that"}`);
  const device = await openDevice(inputs.config);
  defer(device.close);
  const numerics = numericsDifference(prepare.numerics, numericsOf(device));
  if (numerics)
    throw new UserError(`its numbers may differ in the last bits: it has ${numerics.theirs} where the run has ${numerics.ours}`);
  await breathe();
  const { engine, data } = await openLearning(device.executor, inputs, { signal, updates: false });
  defer(() => engine.close());
  const vector = trainedVector(engine);
  const learner = createLearner(engine, inputs.objective.head);
  const rests = createRests(config.gradientEncoding);
  let factor = 1;
  /** By step: parameters that were sent and are not done with. */
  const parameters = new Map<number, Uint8Array>();
  /** The step whose parameters the engine has. */
  let has: number | null = null;
  const learn = (order: EarlierOrder) => {
    const begin = performance.now();
    if (order.step !== has) vector.setParameters(parameters.get(order.step)!);
    has = order.step;
    if (order.factor !== factor) engine.scaleGradients((factor = order.factor));
    const { epoch, index } = data.train.locate(order.draw);
    engine.zeroGradients();
    const part = learner.learn(data.train.batch(epoch, index), order.total, config.seed, order.draw);
    const { encoding, bytes } = rests.encode(order, vector.gradients());
    return { part, encoding, values: bytes, seconds: (performance.now() - begin) / 1000 };
  };
  return {
    setParameters(step: number, values: Uint8Array) {
      // Those of earlier steps come after those of the step under way.
      if ([...parameters.keys()].every((other) => other < step)) parameters.clear();
      parameters.set(step, values);
    },
    learn({ earlier, ...order }: Order) {
      for (const before of earlier) learn(before);
      for (const { step } of earlier) parameters.delete(step);
      return learn(order);
    },
  };
}
