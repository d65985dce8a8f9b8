/**
 * Weights that come into a *window* before they are read and leave it afterwards. A step reads them in a known order, so what is
 * in the window at any time is decided before anything runs. The window is a ring: each load takes the bytes behind the one before it, and
 * begins as soon as what it overwrites has been read for the last time. What is still there when it is read again is not loaded again.
 */

/** A command that reads a piece of a weight. Times (`at`) count the commands of a whole step, and ascend. */
export interface WindowUse {
  /** What is read: equal keys are the same bytes. */
  readonly key: string;
  readonly bytes: number;
  readonly at: number;
}

export interface Load {
  readonly key: string;
  readonly bytes: number;
  /** In the window. */
  readonly offset: number;
  /** The commands that read it first and last. */
  readonly first: number;
  readonly last: number;
  /** The last command that reads what it overwrites, or what earlier loads do; -1: it may begin at once. */
  readonly after: number;
}

export interface WindowPlan {
  /** Bytes of the window. */
  readonly capacity: number;
  /** In the order in which they begin. */
  readonly loads: readonly Load[];
  /** By use: the number of its load. */
  readonly loadOf: Int32Array;
  /** Bytes that are loaded. */
  readonly bytes: number;
}

/** Offsets are multiples of it. */
const ALIGNMENT = 64;

const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT;

/** Places the weights of a step in a window of `capacity` bytes; null: some command reads more than that at once. */
export function planWindow(uses: readonly WindowUse[], capacity: number): WindowPlan | null {
  type Draft = { -readonly [K in keyof Load]: Load[K] };
  const loads: Draft[] = [];
  const loadOf = new Int32Array(uses.length);
  /** Numbers of loads of which no byte is overwritten so far. */
  let present: number[] = [];
  let head = 0;
  let latest = -1;
  const findPresent = (key: string) => present.find((load) => loads[load]!.key === key);
  const overlapping = (offset: number, size: number) =>
    present.filter((load) => {
      const { offset: begin, bytes } = loads[load]!;
      return begin < offset + size && offset < begin + bytes;
    });
  /** Loads reads of one command side by side, at `offset`. */
  const place = (reads: readonly number[], offset: number): void => {
    const size = reads.reduce((sum, use) => sum + aligned(uses[use]!.bytes), 0);
    const overwritten = overlapping(offset, size);
    for (const load of overwritten) latest = Math.max(latest, loads[load]!.last);
    present = present.filter((load) => !overwritten.includes(load));
    head = offset;
    for (const use of reads) {
      const { key, bytes, at } = uses[use]!;
      present.push(loads.length);
      loadOf[use] = loads.length;
      loads.push({ key, bytes, offset: head, first: at, last: at, after: latest });
      head += aligned(bytes);
    }
  };
  for (let begin = 0, end = 0; begin < uses.length; begin = end) {
    const { at } = uses[begin]!;
    while (end < uses.length && uses[end]!.at === at) end++;
    const reads = Array.from({ length: end - begin }, (_, i) => begin + i);
    const isNew = (use: number) => findPresent(uses[use]!.key) === undefined;
    const [fresh, known] = [reads.filter(isNew), reads.filter((use) => !isNew(use))];
    const size = fresh.reduce((sum, use) => sum + aligned(uses[use]!.bytes), 0);
    const held = new Set(known.map((use) => findPresent(uses[use]!.key)!));
    const isFree = (offset: number) => offset + size <= capacity && !overlapping(offset, size).some((load) => held.has(load));
    // Behind the last load, at the begin, or behind what the command reads besides.
    const ends = [...held].map((load) => aligned(loads[load]!.offset + loads[load]!.bytes));
    const offset = size === 0 ? head : [head, 0, ...ends].find(isFree);
    if (offset === undefined) {
      // All that the command reads, side by side, fits wherever anything does.
      if (reads.reduce((sum, use) => sum + aligned(uses[use]!.bytes), 0) > capacity) return null;
      place(reads, 0);
      continue;
    }
    for (const use of known) {
      const load = findPresent(uses[use]!.key)!;
      loads[load]!.last = at;
      loadOf[use] = load;
    }
    if (size > 0) place(fresh, offset);
  }
  return { capacity, loads, loadOf, bytes: loads.reduce((sum, load) => sum + load.bytes, 0) };
}

/** The least capacity, in bytes, with which a step can be placed, and one with which a load goes on while the one before it is read. */
export function windowSizes(uses: readonly WindowUse[]): { readonly least: number; readonly ample: number } {
  const atOnce = new Map<number, Map<string, number>>();
  for (const { key, bytes, at } of uses) {
    const keys = atOnce.get(at) ?? new Map<string, number>();
    atOnce.set(at, keys.set(key, aligned(bytes)));
  }
  const sums = [...atOnce.values()].map((keys) => [...keys.values()].reduce((total, bytes) => total + bytes, 0));
  const least = Math.max(0, ...sums);
  const all = [...new Map(uses.map(({ key, bytes }) => [key, aligned(bytes)])).values()].reduce((sum, bytes) => sum + bytes, 0);
  return { least, ample: Math.max(least, Math.min(all, 2 * least)) };
}

/** A program of a step, in the order of execution. */
export interface WindowRun {
  readonly seconds: number;
  /** The first of its commands in the count of the step, and the end. */
  readonly from: number;
  readonly to: number;
}

/**
 * Seconds that a step waits for its weights, loaded one after the other at `bandwidth` bytes per second beside the computation. The time of
 * a program is taken to be shared by its reads in proportion to their bytes, as the work of a product is.
 */
export function windowWait(
  { loads, loadOf }: WindowPlan,
  uses: readonly WindowUse[],
  runs: readonly WindowRun[],
  bandwidth: number,
): number {
  /** By command that reads: when it ends. */
  const ends = new Map<number, number>([[-1, 0]]);
  let [time, waited, free, begun, use] = [0, 0, 0, 0, 0];
  const ready: number[] = [];
  for (const { seconds, to } of runs) {
    const begin = use;
    while (use < uses.length && uses[use]!.at < to) use++;
    const mine = uses.slice(begin, use);
    const total = mine.reduce((sum, { bytes }) => sum + bytes, 0);
    mine.forEach(({ at, bytes }, i) => {
      const load = loadOf[begin + i]!;
      for (; begun <= load; begun++) {
        free = Math.max(free, ends.get(loads[begun]!.after) ?? time) + loads[begun]!.bytes / bandwidth;
        ready.push(free);
      }
      const wait = Math.max(0, ready[load]! - time);
      waited += wait;
      time += wait + (seconds * bytes) / total;
      ends.set(at, time);
    });
    if (mine.length === 0) time += seconds;
  }
  return waited;
}
