import { messageOf, UserError } from "../../base/errors.ts";
import { hear as hearMessages } from "../../base/process/event-loop.ts";
import { decode, encodedBytes, type Encoding } from "../../base/codes.ts";
import type { FromWorker, Part, ToWorker, WorkerLink } from "./messages.ts";
import { createRoster, type Member, orderOf, type PastStep, type StepOrders } from "./roster.ts";
import { createOwnWork, type Learn } from "./own-work.ts";
import { placeInPeriod } from "./rests.ts";
import type { StepWork } from "./step-work.ts";
import type { TrainedVector } from "./trained-vector.ts";

/** A step as workers took part in it. */
export interface NodeStep {
  /** Processes that were ready when it ended, this one included. */
  readonly ready: number;
  /** Micro-batches whose gradients came from another process. */
  readonly elsewhere: number;
  /** Bytes of parameters that went out, and of gradients that came in. */
  readonly sent: number;
  readonly received: number;
}

/** The part of a run that divides the micro-batches of its steps among processes. */
export interface Coordinator {
  /**
   * Has a step's micro-batches learned, here and by the workers, and leaves the sum of their gradients in the engine. Returns their parts, in order.
   * @param own learns a micro-batch here, from gradients of 0: of this step, or of an earlier one with the parameters that it had
   */
  learn(orders: StepOrders, own: Learn): Promise<readonly Part[]>;
  /** The steps that are done of the period under way, where gradients travel in codes: what another coordinator needs to go on. */
  past(): readonly PastStep[];
  /** Goes on in the middle of a period. */
  resume(past: readonly PastStep[]): void;
  /** A worker that may join: it is given work when it is ready. */
  add(name: string, link: WorkerLink): void;
  /** The last step. */
  readonly last: NodeStep;
  close(): void | Promise<void>;
}

export interface CoordinatorOptions {
  readonly vector: TrainedVector;
  readonly encoding: Encoding;
  zeroGradients(): void;
  /** The first message to a worker. */
  readonly prepare: Extract<ToWorker, { type: "prepare" }>;
  warn(text: string): void;
  /** Milliseconds. */
  now?(): number;
  /** Lets in the messages that have arrived. */
  hear?(): Promise<void>;
}

/** @throws {UserError} another number of bytes, codes of values that are not finite */
function gradientsOf({ values, encoding }: Extract<FromWorker, { type: "learned" }>, size: number): Float32Array {
  const expected = encodedBytes(size, encoding);
  if (values.byteLength !== expected)
    throw new UserError(`it sent ${values.byteLength} bytes of gradients, expected ${expected}`);
  return encoding === "f32" ? new Float32Array(values.buffer, values.byteOffset, size) : decode(values, size, encoding);
}

/** Between two looks at whether somebody takes too long, ms. */
const LOOK_MS = 50;

export function createCoordinator({
  vector,
  encoding,
  zeroGradients,
  prepare,
  warn,
  now = () => performance.now(),
  hear = hearMessages,
}: CoordinatorOptions): Coordinator {
  const roster = createRoster(now);
  const { members } = roster;
  const sum = new Float32Array(vector.size);
  const here = createOwnWork({ vector, encoding, zeroGradients, now });
  let past: readonly PastStep[] = [];
  let [received, elsewhere] = [0, 0];
  let last: NodeStep = { ready: 1, elsewhere: 0, sent: 0, received: 0 };
  let wake = () => {};

  function remove(member: Member, why: string): void {
    if (!roster.remove(member)) return;
    warn(`${member.name} has left the run: ${why}; the others go on with its work`);
    member.link.close();
    wake();
  }

  function take(member: Member, message: FromWorker): void {
    switch (message.type) {
      case "ready":
        member.isReady = true;
        break;
      case "failed":
        return remove(member, message.message);
      case "dropped":
        roster.answered(member, message.step, message.index);
        break;
      case "learned": {
        const { step, index, part, seconds, values } = message;
        let gradients: Float32Array;
        try {
          gradients = gradientsOf(message, vector.size);
        } catch (error) {
          return remove(member, messageOf(error));
        }
        roster.answered(member, step, index);
        member.times.add(seconds);
        received += values.byteLength;
        const { current } = roster;
        if (step !== current?.orders.step || current.work.has(index)) break;
        current.work.take(index, part, gradients);
        roster.learned(index, member);
        elsewhere++;
      }
    }
    roster.feedIdle(0);
    wake();
  }

  /** Waits until something has happened, or it is time to look. */
  async function rest(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    wake = resolve;
    const timer = setTimeout(resolve, LOOK_MS);
    await promise;
    clearTimeout(timer);
  }

  /** The next micro-batch to learn here; null: all are learned. */
  async function next(work: StepWork): Promise<number | null> {
    for (;;) {
      // What has arrived is heard first.
      await hear();
      if (work.isDone) return null;
      roster.feedIdle(1);
      const index = roster.next();
      if (index === null) await rest();
      else if (!work.has(index)) return index;
    }
  }

  return {
    async learn(orders, own) {
      [received, elsewhere] = [0, 0];
      const place = placeInPeriod(orders.step, encoding);
      if (place === 0) past = [];
      if (past.length !== place)
        throw new Error(`step ${orders.step}: ${past.length} steps of its period are known, of ${place}`);
      const { work, parameters } = roster.begin(orders, sum, vector.parameters, past);
      for (let index = await next(work); index !== null; index = await next(work)) {
        const missing = roster.missing(index, null).map((step) => ({ order: orderOf(step, index), values: step.values }));
        const { part, gradients, seconds } = await here.learn(orderOf(orders, index), missing, parameters, own);
        roster.own.add(seconds);
        work.take(index, part, gradients);
        roster.learned(index, null);
      }
      roster.end();
      if (encoding !== "f32") past = [...past, { ...orders, values: parameters() }];
      vector.setGradients(sum);
      last = { ready: 1 + [...members].filter(({ isReady }) => isReady).length, elsewhere, sent: roster.sent, received };
      return work.parts();
    },
    add(name, link) {
      const member = roster.add(name, link);
      link.listen({
        message: (message) => members.has(member) && take(member, message),
        closed: (why) => remove(member, why),
      });
      link.send(prepare);
    },
    get last() {
      return last;
    },
    past: () => past,
    resume: (steps) => void (past = steps),
    close() {
      for (const member of members) {
        roster.remove(member);
        member.link.close();
      }
    },
  };
}
