import type { Examination } from "../train/apart/examine.ts";

/** The memory that a job asks for, in bytes. */
export interface MemoryNeed {
  /** With less it cannot run. */
  readonly least: number;
  /** More is of no use to it. */
  readonly most: number;
}

/** The need of a run whose plan is known: one that says its memory itself gets that. */
export function needOf({ least, most, asked }: Pick<Examination["memory"], "least" | "most" | "asked">): MemoryNeed {
  return asked === null ? { least, most } : { least: asked, most: asked };
}

/** Says how much of the box's memory is held, and by which, in bytes. */
export interface Ledger {
  readonly limit: number;
  /** Held by what answers requests. */
  serving(): number;
  /** Held by jobs, by their names. */
  readonly jobs: ReadonlyMap<string, number>;
  readonly free: number;
  /** Tells whether a job can run when no other one does. */
  canEverFit(need: MemoryNeed): boolean;
  /** Gives a job a budget; null: it has to wait. @param slots the number of jobs that may still be started, this one included */
  admit(job: string, need: MemoryNeed, slots: number): number | null;
  release(job: string): void;
}

/** @param serving bytes that answering requests holds, or will hold: they are never given to a job */
export function createLedger(limit: number, serving: () => number): Ledger {
  const jobs = new Map<string, number>();
  const free = () => Math.max(0, limit - serving() - [...jobs.values()].reduce((sum, bytes) => sum + bytes, 0));
  return {
    limit,
    serving,
    jobs,
    get free() {
      return free();
    },
    canEverFit: ({ least }) => least <= limit - serving(),
    admit(job, { least, most }, slots) {
      const there = free();
      if (least > there) return null;
      // The others that may follow get their share, as far as this one can do without it.
      const budget = Math.floor(Math.max(least, Math.min(most, there / Math.max(1, slots))));
      jobs.set(job, budget);
      return budget;
    },
    release: (job) => void jobs.delete(job),
  };
}
