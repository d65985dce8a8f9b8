import { createStepWork, type StepWork } from "./step-work.ts";
import { createTimes, type Times } from "./times.ts";
import type { EarlierOrder, Order, WorkerLink } from "./messages.ts";

/** One step's work for all processes. */
export interface StepOrders extends Pick<Order, "step" | "total" | "factor"> {
  /** The place of its first micro-batch in the run. */
  readonly draw: number;
  /** Micro-batches. */
  readonly count: number;
}

/** A step of the period under way that is done, with the parameters that it had. */
export interface PastStep extends Omit<StepOrders, "count"> {
  readonly values: Uint8Array<ArrayBuffer>;
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
  /** The steps before it in its period, where gradients travel in codes. */
  readonly past: readonly PastStep[];
}

/** The order for a micro-batch of a step. */
export const orderOf = ({ step, draw, total, factor }: Omit<StepOrders, "count">, index: number): EarlierOrder => ({
  step,
  index,
  draw: draw + index,
  total,
  factor,
});

/** A worker that takes so many times as long as others, and so many milliseconds more, is helped. */
const SLOW = 3;
const SLOW_MS = 1000;

/**
 * Divides the micro-batches of a step so that all processes are expected to be done at the same time. Null: this process.
 * @param cost micro-batches that a process computes to learn one
 */
function divided(count: number, own: Times, others: readonly Member[], cost: (index: number, by: Member | null) => number) {
  const known = [own, ...others.map(({ times }) => times)].map(({ expected }) => expected).filter((seconds) => seconds !== null);
  const usual = known.length > 0 ? known.reduce((a, b) => a + b, 0) / known.length : 1;
  const nodes = [null, ...others].map((member) => ({ member, seconds: (member?.times ?? own).expected ?? usual, count: 0 }));
  const costs = Array.from({ length: count }, (_, index) => nodes.map(({ member }) => cost(index, member)));
  /** One process has what is left of it: it costs less there than elsewhere. */
  const isBound = (index: number) => new Set(costs[index]).size > 1;
  const all = [...costs.keys()];
  // First the ones that stay where they were, then the others to whoever is done first.
  return [...all.filter(isBound), ...all.filter((index) => !isBound(index))].map((index) => {
    const end = (i: number) => (nodes[i]!.count + costs[index]![i]!) * nodes[i]!.seconds;
    const holder = isBound(index) ? costs[index]!.indexOf(1) : -1;
    const best = holder >= 0 ? holder : nodes.reduce((least, _, i) => (end(i) < end(least) ? i : least), 0);
    nodes[best]!.count += costs[index]![best]!;
    return { member: nodes[best]!.member, index };
  });
}

const newMember = (name: string, link: WorkerLink): Member => ({
  name,
  link,
  isReady: false,
  has: null,
  orders: [],
  withdrawn: new Set(),
  late: 0,
  since: 0,
  times: createTimes(),
});

/** The worker that has the most orders, where those are more than so many. */
function busiestOf(members: Iterable<Member>, least: number): Member | null {
  const waiting = [...members].filter(({ orders }) => orders.length > least);
  if (waiting.length === 0) return null;
  return waiting.reduce((most, member) => (member.orders.length > most.orders.length ? member : most));
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
  begin(orders: StepOrders, sum: Float32Array, parameters: () => Uint8Array<ArrayBuffer>, past: readonly PastStep[]): CurrentStep;
  /** Takes back what nobody has begun, and forgets the step. */
  end(): void;
  /** Notes who has what is left of a micro-batch: who has learned it last. Null: this process. */
  learned(index: number, by: Member | null): void;
  /** The steps that a process computes again to have what is left of a micro-batch. Null: this process. */
  missing(index: number, by: Member | null): readonly PastStep[];
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
  /** By micro-batch: who has what is left of it in this period; null: this process. */
  const holders = new Map<number, Member | null>();

  const missing = (index: number, by: Member | null) => (holders.get(index) === by ? [] : current!.past);
  /** Micro-batches that a process computes to learn one. */
  const cost = (index: number, by: Member | null) => 1 + missing(index, by).length;
  const able = () => [...members].filter(({ isReady, late }) => isReady && late === 0);

  function give(member: Member, index: number): void {
    const { orders, parameters } = current!;
    const { step } = orders;
    const tell = (of: number, values: Uint8Array<ArrayBuffer>) => {
      member.link.send({ type: "parameters", step: of, values });
      sent += values.byteLength;
    };
    if (member.has !== step) tell(step, parameters());
    member.has = step;
    const before = missing(index, member);
    for (const past of before) tell(past.step, past.values);
    const earlier = before.map((past): EarlierOrder => orderOf(past, index));
    if (member.orders.length === 0) member.since = now();
    member.orders.push(index);
    member.link.send({ type: "learn", ...orderOf(orders, index), earlier });
  }

  /** Takes the last order back from the worker that has the most that it has not begun; null: none has any. */
  function takeBack(): number | null {
    // Whoever learns it computes that many before it, which is to take less time than its turn would.
    const busiest = busiestOf(members, 1 + current!.past.length);
    if (!busiest) return null;
    const index = busiest.orders.pop()!;
    busiest.withdrawn.add(index);
    // It may have begun it, and then has what is left of it for the next step.
    if (holders.get(index) === busiest) holders.delete(index);
    busiest.link.send({ type: "drop", step: current!.orders.step, index });
    return index;
  }

  /** A micro-batch of a worker that takes far longer with it than is usual; null: there is none. */
  function overdue(): number | null {
    const usual = 1000 * (own.expected ?? Math.max(0, ...[...members].map(({ times }) => times.expected ?? 0)));
    const slow = [...members].find(
      (member) => member.orders.length > 0 && now() - member.since > SLOW * usual * cost(member.orders[0]!, member) + SLOW_MS,
    );
    return slow?.orders.find((index) => !current!.work.has(index)) ?? null;
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
      const member = newMember(name, link);
      members.add(member);
      return member;
    },
    remove(member) {
      if (!members.delete(member)) return false;
      if (current) mine.push(...member.orders.filter((index) => !current!.work.has(index)));
      mine.sort((a, b) => a - b);
      for (const [index, holder] of holders) if (holder === member) holders.delete(index);
      return true;
    },
    begin(orders, sum, parameters, past) {
      let copied: Uint8Array<ArrayBuffer> | null = null;
      const work = createStepWork(orders.step, orders.count, sum);
      current = { orders, work, parameters: () => (copied ??= parameters()), past };
      [mine, sent] = [[], 0];
      if (past.length === 0) holders.clear();
      for (const { member, index } of divided(orders.count, own, able(), cost))
        if (member) give(member, index);
        else mine.push(index);
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
        // What this process has the rest of stays here.
        const at = mine.length > keep ? mine.findLastIndex((index) => cost(index, null) > 1 || current!.past.length === 0) : -1;
        const index = at >= 0 ? mine.splice(at, 1)[0]! : takeBack();
        if (index === null) return;
        give(member, index);
      }
    },
    learned: (index, by) => void holders.set(index, by),
    missing,
    next: () => mine.shift() ?? takeBack() ?? overdue(),
    own,
  };
}
