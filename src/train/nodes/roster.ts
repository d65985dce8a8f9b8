import { createStepWork, type StepWork } from "./step-work.ts";
import type { Order, WorkerLink } from "./messages.ts";

/** One step's work for all processes. */
export interface StepOrders extends Pick<Order, "step" | "total" | "factor"> {
  /** The place of its first micro-batch in the run. */
  readonly draw: number;
  /** Micro-batches. */
  readonly count: number;
}

/** A worker, as the coordinator knows it. */
export interface Member {
  readonly name: string;
  readonly link: WorkerLink;
  isReady: boolean;
  /** The step whose parameters it has. */
  has: number | null;
  /** Micro-batches of this step that it has been given and has not answered, in the order in which it does them. */
  orders: number[];
  /** Orders of this step that were taken back, and that it has not answered. */
  readonly withdrawn: Set<number>;
  /** Orders of earlier steps that it has not answered: it is given no other ones before. */
  late: number;
  /** The time when it began with the first of `orders`, as far as is known here, ms. */
  since: number;
  readonly times: Times;
}

/** A step under way. */
export interface CurrentStep {
  readonly orders: StepOrders;
  readonly work: StepWork;
  /** The trained parameters. */
  parameters(): Uint8Array<ArrayBuffer>;
}

/** A worker that takes so many times as long as others, and so many milliseconds more, is helped. */
const SLOW = 3;
const SLOW_MS = 1000;

/** Micro-batches that say how long the next one will take. */
const NEWEST = 3;

/** The seconds that a process takes for a micro-batch. */
export interface Times {
  /** The least of the newest ones: the first one is that of a process that warms up, and others may be disturbed. Null: none is known. */
  readonly expected: number | null;
  add(seconds: number): void;
}

export function createTimes(): Times {
  const newest: number[] = [];
  return {
    get expected() {
      return newest.length === 0 ? null : Math.min(...newest);
    },
    add(seconds) {
      newest.push(seconds);
      if (newest.length > NEWEST) newest.shift();
    },
  };
}

/** Who computes for a run, and which micro-batches of the current step each is to learn. */
export interface Roster {
  readonly members: ReadonlySet<Member>;
  readonly current: CurrentStep | null;
  /** Bytes of parameters that went out in this step. */
  readonly sent: number;
  add(name: string, link: WorkerLink): Member;
  /** Its micro-batches are to be learned here. False: it was removed before. */
  remove(member: Member): boolean;
  /** Divides a step's micro-batches so that all are expected to be done at the same time. */
  begin(orders: StepOrders, sum: Float32Array, parameters: () => Uint8Array<ArrayBuffer>): CurrentStep;
  /** Takes back what nobody has begun, and forgets the step. */
  end(): void;
  /** Notes that an order is answered. */
  answered(member: Member, step: number, index: number): void;
  /** Gives workers that stand idle what others have not begun. @param keep micro-batches that stay here */
  feedIdle(keep: number): void;
  /** Returns the micro-batch to learn here next: one of those for this process, or of a worker that has not begun it or takes far too long; null: none. */
  next(): number | null;
  /** The times of this process. */
  readonly own: Times;
}

/** @param now milliseconds */
export function createRoster(now: () => number): Roster {
  const members = new Set<Member>();
  let current: CurrentStep | null = null;
  let sent = 0;
  /** Micro-batches that are to be learned here. */
  let mine: number[] = [];
  const own = createTimes();

  const able = () => [...members].filter(({ isReady, late }) => isReady && late === 0);

  function give(member: Member, index: number): void {
    const { orders, parameters } = current!;
    const { step, draw, total, factor } = orders;
    if (member.has !== step) {
      const values = parameters();
      member.link.send({ type: "parameters", step, values });
      sent += values.byteLength;
      member.has = step;
    }
    if (member.orders.length === 0) member.since = now();
    member.orders.push(index);
    member.link.send({ type: "learn", step, index, draw: draw + index, total, factor });
  }

  /** Takes the last order back from the worker that has the most that it has not begun; null: none has any. */
  function takeBack(): number | null {
    const waiting = [...members].filter(({ orders }) => orders.length > 1);
    if (waiting.length === 0) return null;
    const busiest = waiting.reduce((most, member) => (member.orders.length > most.orders.length ? member : most));
    const index = busiest.orders.pop()!;
    busiest.withdrawn.add(index);
    busiest.link.send({ type: "drop", step: current!.orders.step, index });
    return index;
  }

  /** A micro-batch of a worker that takes far longer with it than is usual; null: there is none. */
  function overdue(): number | null {
    const usual = 1000 * (own.expected ?? Math.max(0, ...[...members].map(({ times }) => times.expected ?? 0)));
    const slow = [...members].find(({ orders, since }) => orders.length > 0 && now() - since > SLOW * usual + SLOW_MS);
    return slow?.orders.find((index) => !current!.work.has(index)) ?? null;
  }

  function deal(count: number): void {
    const others = able();
    const known = [own, ...others.map(({ times }) => times)]
      .map(({ expected }) => expected)
      .filter((seconds) => seconds !== null);
    const usual = known.length > 0 ? known.reduce((a, b) => a + b, 0) / known.length : 1;
    const nodes = [null, ...others].map((member) => ({
      member,
      seconds: (member?.times ?? own).expected ?? usual,
      count: 0,
    }));
    for (let index = 0; index < count; index++) {
      const end = (node: (typeof nodes)[number]) => (node.count + 1) * node.seconds;
      const node = nodes.reduce((best, candidate) => (end(candidate) < end(best) ? candidate : best));
      node.count++;
      if (node.member) give(node.member, index);
      else mine.push(index);
    }
  }

  return {
    members,
    get current() {
      return current;
    },
    get sent() {
      return sent;
    },
    add(name, link) {
      const known = {
        isReady: false,
        has: null,
        orders: [],
        withdrawn: new Set<number>(),
        late: 0,
        since: 0,
        times: createTimes(),
      };
      const member: Member = { name, link, ...known };
      members.add(member);
      return member;
    },
    remove(member) {
      if (!members.delete(member)) return false;
      if (current) mine.push(...member.orders.filter((index) => !current!.work.has(index)));
      mine.sort((a, b) => a - b);
      return true;
    },
    begin(orders, sum, parameters) {
      let copied: Uint8Array<ArrayBuffer> | null = null;
      current = { orders, work: createStepWork(orders.step, orders.count, sum), parameters: () => (copied ??= parameters()) };
      [mine, sent] = [[], 0];
      deal(orders.count);
      return current;
    },
    end() {
      const { step } = current!.orders;
      current = null;
      for (const member of members) {
        member.late += member.orders.length + member.withdrawn.size;
        if (member.orders.length > 0) member.link.send({ type: "drop", step, index: null });
        member.orders = [];
        member.withdrawn.clear();
      }
    },
    answered(member, step, index) {
      if (step !== current?.orders.step) {
        member.late--;
        return;
      }
      member.since = now();
      // An order that was taken back and given again is answered twice, in that order.
      if (!member.withdrawn.delete(index)) member.orders = member.orders.filter((other) => other !== index);
    },
    feedIdle(keep) {
      if (!current || current.work.isDone) return;
      for (const member of able()) {
        if (member.orders.length > 0) continue;
        const index = mine.length > keep ? mine.pop()! : takeBack();
        if (index === null) return;
        give(member, index);
      }
    },
    next: () => mine.shift() ?? takeBack() ?? overdue(),
    own,
  };
}
