import type { Engine } from "../step/engine.ts";
import type { DoneEvent, EventSink, StepEvent } from "./events.ts";
import type { Evaluation, TrainingEvents } from "./loop.ts";
import { createStepTimes } from "./step-times.ts";

/** Share of the newest step in the rate that is shown. */
const NEWEST = 0.1;

/** Makes events of what the loop tells, and remembers the last of each kind. */
export function createTeller(engine: Engine, record: EventSink) {
  let speed: number | null = null;
  let loss: number | null = null;
  let evaluation: Evaluation | null = null;
  /** When the first step of this process began, ms, and how many steps there were before it. */
  let first: { readonly at: number; readonly before: number } | null = null;
  const moved = stepTransfers(engine);
  const times = createStepTimes();
  const nodes = { steps: 0, sent: 0, received: 0, elsewhere: 0 };
  const events: TrainingEvents = {
    step(step) {
      const current = step.tokens / step.seconds;
      const now = performance.now();
      times.add(step.forwardBackward);
      speed = speed === null ? current : (1 - NEWEST) * speed + NEWEST * current;
      loss = step.loss;
      if (step.nodes) {
        nodes.steps++;
        for (const key of ["sent", "received", "elsewhere"] as const) nodes[key] += step.nodes[key];
      }
      // The evaluation before the first step says nothing of the steps.
      first ??= { at: now - 1000 * step.seconds, before: step.step - 1 };
      record({
        type: "step",
        ...step,
        tokensPerSecond: speed,
        memory: engine.recentPeak,
        ...moved(),
        secondsLeft: ((now - first.at) / 1000 / (step.step - first.before)) * (step.steps - step.step),
      });
    },
    evaluation(found) {
      evaluation = found;
      record({ type: "evaluation", ...found });
    },
    checkpoint: (step) => record({ type: "checkpoint", step }),
    warning: (text) => record({ type: "warning", text }),
  };
  return {
    events,
    loss: () => loss,
    evaluation: () => evaluation,
    /** Medians of the times of forward and backward passes. */
    times: () => times.medians(),
    /** Means of what other processes had to do with the steps; empty where there are none. */
    nodes(): Pick<DoneEvent, "nodes"> {
      const { steps, sent, received, elsewhere } = nodes;
      return steps === 0
        ? {}
        : { nodes: { sent: Math.round(sent / steps), received: Math.round(received / steps), elsewhere: elsewhere / steps } };
    },
  };
}

/** Returns what a step has moved, each time since the last. */
function stepTransfers({ store }: Engine): () => Pick<StepEvent, "offload"> {
  if (!store) return () => ({});
  let before = store.counts();
  return () => {
    const now = store.counts();
    const offload = { out: now.out - before.out, in: now.in - before.in, waited: now.waited - before.waited };
    before = now;
    return { offload };
  };
}
