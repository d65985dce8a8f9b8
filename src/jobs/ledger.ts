import type { Examination } from "../train/apart/examine.ts";
import type { MemoryControl } from "../train/run/memory-control.ts";
import { levelled } from "./levelled.ts";

/** The memory that a job asks for, in bytes. */
export interface MemoryNeed {
  /** With less it cannot run. */
  readonly least: number;
  /** More is of no use to it. */
  readonly most: number;
}

/**
 * The need of a run whose plan is known: one that says its memory itself gets that.
 * @param there bytes that it can ever have: where its frozen weights do not fit into them, they stay in their files
 */
export function needOf({ least, leastStreamed, most, asked }: Examination["memory"], there: number): MemoryNeed {
  if (asked !== null) return { least: asked, most: asked };
  return { least: least <= there ? least : (leastStreamed ?? least), most };
}

/** Says what answering requests takes, in bytes. */
export interface Serving {
  /** Now. */
  held(): number;
  /** As soon as every model that is served has been asked something. */
  promised(): number;
}

/**
 * Divides the box's memory, in bytes. Answering comes first. Jobs get what is free, each up to what it can make use of, and give it back down
 * to the least that they need, which is set aside for each: a job whose limit may change does so between two micro-batches.
 */
export interface Ledger {
  readonly limit: number;
  /** Held by what answers requests. */
  serving(): number;
  /** Held by jobs, by their names. */
  readonly jobs: ReadonlyMap<string, number>;
  /** Bytes that nobody holds. */
  readonly free: number;
  /** Bytes of which a new job may need all: those that neither answering nor the least needs of jobs may ever take. */
  readonly unpromised: number;
  /** True if a job could make use of more than it has. */
  readonly isShort: boolean;
  /** Bytes that a job can have when no other one runs, whatever is asked of the models. */
  readonly mostForJobs: number;
  /**
   * Takes a job in; null: it has to wait until another one ends. The promise has its first budget, as soon as others have given way.
   * @param control changes its limit later; null: it keeps its first one
   */
  admit(job: string, need: MemoryNeed, control: MemoryControl | null): Promise<number> | null;
  release(job: string): void;
  /**
   * Has jobs give way until so many bytes are free, or what `serving` says fits. Resolves to a function that is called right before they are
   * taken; to null where jobs cannot or do not give way in time.
   */
  makeRoom(bytes: number): Promise<(() => void) | null>;
}

/** Milliseconds that something short waits for jobs to give way. */
const BORROW_MS = 20_000;

/** Takes in something short that keeps its first budget, under a job's name; null: jobs cannot or do not give way in time. */
export async function borrow(ledger: Ledger, name: string, need: MemoryNeed): Promise<number | null> {
  const granted = ledger.admit(name, need, null);
  if (granted === null) return null;
  const budget = await Promise.race([granted, Bun.sleep(BORROW_MS).then(() => null)]);
  if (budget === null) ledger.release(name);
  return budget;
}

export interface LedgerOptions {
  readonly limit: number;
  readonly serving: Serving;
  /** Has a function called from time to time, which looks at what answering holds: it grows and falls by itself. Returns what ends that. */
  readonly watch?: (look: () => void) => () => void;
  /** Milliseconds that jobs have to give way to answering: micro-batches of large models take many seconds. */
  readonly patienceMs?: number;
}

/** The part of a job. */
interface Part {
  readonly control: MemoryControl | null;
  need: MemoryNeed;
  held: number;
  /** Told its first budget; null: it has it. */
  start: ((budget: number) => void) | null;
  /** The limit that it was asked for last and has not confirmed. */
  asked: { readonly bytes: number } | null;
}

/** Share of the limit that stays free when memory is divided: answering takes small pieces of it without asking. */
const SLACK = 1 / 64;
/** Share of the limit below which a job's part does not grow: another schedule takes time to plan. */
const LEAST_GROWTH = 1 / 32;
/** Looks that memory must be free in a row before jobs grow into it. */
const CALM_LOOKS = 3;

function everySecond(look: () => void): () => void {
  const timer = setInterval(look, 1000);
  timer.unref();
  return () => clearInterval(timer);
}

/** In one piece: its functions share what is known of jobs and of what is asked of them. */
export function createLedger({ limit, serving, watch = everySecond, patienceMs = 30_000 }: LedgerOptions): Ledger {
  const parts = new Map<string, Part>();
  /** Bytes that are about to be taken. */
  const claims = new Set<{ readonly bytes: number }>();
  const waiting = new Set<() => void>();
  let endWatch: (() => void) | null = null;
  let calm = 0;

  const sum = (of: (part: Part) => number) => [...parts.values()].reduce((bytes, part) => bytes + of(part), 0);
  const claimed = () => [...claims].reduce((bytes, claim) => bytes + claim.bytes, 0);
  const free = () => limit - serving.held() - claimed() - sum(({ held }) => held);
  const isElastic = ({ control, start }: Part) => control !== null || start !== null;

  /** What each part should be: the bytes that are there, divided so that none has more than another one that could use more. */
  const targets = (): Map<Part, number> => {
    const elastic = [...parts.values()].filter(isElastic);
    const fixed = sum((part) => (isElastic(part) ? 0 : part.held));
    const there = limit * (1 - SLACK) - serving.held() - claimed() - fixed;
    const shares = levelled(
      there,
      elastic.map(({ need }) => need),
    );
    return new Map(elastic.map((part, i) => [part, shares[i]!]));
  };

  const ask = (job: string, part: Part, target: number): void => {
    if (part.asked?.bytes === target) return;
    const wish = { bytes: target };
    part.asked = wish;
    void part.control!.resize(target).then((kept) => {
      const isNewest = part.asked === wish;
      if (isNewest) part.asked = null;
      if (kept === null || parts.get(job) !== part) return;
      if (isNewest) {
        part.held = kept;
        // Its process has more of its own than was expected.
        if (kept > target) part.need = { ...part.need, least: Math.max(part.need.least, kept) };
      } else if (part.asked && part.asked.bytes <= kept) {
        // Told what became of a wish that took this one's place: that says nothing of what the job cannot do without.
        part.held = Math.min(part.held, kept);
      }
      settle();
    });
  };

  /** Divides anew: takes from jobs what others lack, and gives those that wait what is free. */
  const settle = (mayGrow = false): void => {
    const wanted = targets();
    const starting = sum((part) => (part.start ? wanted.get(part)! : 0));
    let isAsked = false;
    for (const [job, part] of parts) {
      const target = wanted.get(part);
      if (target === undefined || part.start || part.held <= target) continue;
      if (free() < starting) ask(job, part, target);
      isAsked ||= part.asked !== null && part.asked.bytes < part.held;
    }
    for (const part of parts.values()) {
      const target = wanted.get(part);
      if (!part.start || target === undefined) continue;
      // Others may have more of their own than was expected.
      const budget = free() >= target ? target : isAsked ? 0 : Math.floor(Math.min(free(), target));
      if (budget < part.need.least) continue;
      const { start } = part;
      Object.assign(part, { held: budget, start: null });
      start(budget);
    }
    if (mayGrow && !isAsked) grow(wanted);
    for (const look of waiting) look();
  };

  const growthOf = (part: Part, target: number): number => {
    if (part.start || !part.control) return 0;
    const bytes = Math.min(target, part.held + free()) - part.held;
    return bytes >= Math.min(limit * LEAST_GROWTH, part.need.most - part.held) ? Math.max(0, bytes) : 0;
  };

  const grow = (wanted: ReadonlyMap<Part, number>): void => {
    for (const [job, part] of parts) {
      const bytes = growthOf(part, wanted.get(part) ?? 0);
      if (bytes === 0) continue;
      // It may take them at once: they are nobody's.
      part.held += bytes;
      ask(job, part, part.held);
    }
  };

  const look = (): void => {
    const canGrow = [...targets()].some(([part, target]) => growthOf(part, target) > 0);
    calm = canGrow ? calm + 1 : 0;
    settle(calm >= CALM_LOOKS);
  };

  const watchWhileNeeded = (): void => {
    if (parts.size > 0) endWatch ??= watch(look);
    else {
      endWatch?.();
      endWatch = null;
    }
  };

  const unpromised = () => limit - Math.max(serving.promised(), serving.held()) - sum(({ need }) => need.least);

  return {
    limit,
    serving: () => serving.held(),
    get jobs() {
      return new Map([...parts].map(([job, { held }]) => [job, held]));
    },
    get free() {
      return Math.max(0, free());
    },
    get unpromised() {
      return Math.max(0, unpromised());
    },
    get isShort() {
      return [...parts.values()].some((part) => part.start !== null || (part.control !== null && part.held < part.need.most));
    },
    get mostForJobs() {
      return Math.max(0, limit - serving.promised());
    },
    admit(job, need, control) {
      if (need.least > unpromised()) return null;
      const { promise, resolve } = Promise.withResolvers<number>();
      parts.set(job, { control, need, held: 0, start: resolve, asked: null });
      watchWhileNeeded();
      settle();
      return promise;
    },
    release(job) {
      if (!parts.delete(job)) return;
      watchWhileNeeded();
      settle(true);
    },
    makeRoom(bytes) {
      const claim = { bytes };
      claims.add(claim);
      const { promise, resolve } = Promise.withResolvers<(() => void) | null>();
      const end = (hasRoom: boolean) => {
        waiting.delete(check);
        clearTimeout(timer);
        if (hasRoom) return resolve(() => void claims.delete(claim));
        claims.delete(claim);
        resolve(null);
      };
      const check = () => {
        if (free() >= 0) end(true);
        // Those that start have the last word: their first budget is not theirs yet.
        else if ([...parts.values()].every(({ asked, held }) => asked === null || asked.bytes >= held)) end(false);
      };
      const timer = setTimeout(() => end(false), patienceMs);
      waiting.add(check);
      settle();
      return promise;
    },
  };
}
