/**
 * Residency: which frozen weights lie in the executor's memory all the time, and which lie in their file and come into a window when a
 * program reads them.
 */
import { programsOf, type Segment } from "../graph/segment.ts";
import { byteLength } from "../graph/types.ts";
import { tableInputs } from "../graph/weight-inputs.ts";
import { matrixOf } from "../models/linear.ts";
import { align, type Executor } from "../runtime/executor.ts";
import type { Programs } from "../runtime/chain.ts";
import type { ParamInfo } from "../runtime/resident.ts";
import { sequenceProgram, type SequenceProgram, sequenceUses } from "../runtime/streaming/weight-window.ts";
import { windowSizes } from "../schedule/window.ts";

export interface Residency {
  /** Names of the frozen parameters that lie in their file. */
  readonly streamed: ReadonlySet<string>;
  /** By streamed parameter of which a batch reads single rows: bytes of a row. */
  readonly rowBytes: ReadonlyMap<string, number>;
  /** Bytes of the window that the others pass through. */
  readonly window: number;
  /** True if trained parameters are among them: they lie outside with their gradients and the optimizer's state. */
  readonly isTrainedOutside: boolean;
}

/** Everything lies in memory. */
export const ALL_RESIDENT: Residency = { streamed: new Set(), rowBytes: new Map(), window: 0, isTrainedOutside: false };

/** Smaller parameters stay in memory: a read of them would be all latency. */
const LEAST_BYTES = 2 ** 16;

/** What residencies are made for. */
export interface ResidencyRequest {
  readonly executor: Pick<Executor, "halves">;
  readonly programs: Programs;
  readonly params: readonly ParamInfo[];
  /** Chains whose programs are run. */
  readonly chains: readonly (readonly Segment[])[];
  /** True for a frozen parameter that can be read from a file as it lies in memory. */
  canStream(param: ParamInfo): boolean;
}

/** A segment's parameters that may lie in their file. */
interface Group {
  readonly names: readonly string[];
  readonly bytes: number;
  /** How often the segment's programs read each byte. */
  readonly passes: number;
}

export interface Residencies {
  /** Bytes of all that may lie in files. */
  readonly bytes: number;
  /**
   * About `share` of these bytes stay in memory: first what is read most often, then segments at equal distances, so that the reads of
   * those between them spread over a step.
   * @param window `ample`: a read goes on while the one before it is used; `least`: the smallest window of all
   * @param isTrainedOutside what is trained lies outside, too
   */
  keeping(share: number, window: "ample" | "least", isTrainedOutside?: boolean): Residency;
  /** True if something is trained, which then may lie outside. */
  readonly trains: boolean;
  /** True if single rows are all that is read of some: they lie in their file whatever share is kept, the whole one included. */
  readonly hasTables: boolean;
}

/**
 * Bytes from which on a table of which single rows are read lies in its file even where it fits into memory: a Gemma 4's vectors for blocks, which are half
 * of all its weights.
 */
const HUGE_TABLE = 2 ** 30;

/** Tells, of the parameters alone, whether one may be such a table. */
export function mayHaveHugeTable(params: readonly ParamInfo[]): boolean {
  return params.some(({ type, trainable }) => !trainable && byteLength(type) >= HUGE_TABLE);
}

/** Tells whether there is one that is in its file with a residency. */
export function hasHugeTable({ rowBytes }: Residency, params: readonly ParamInfo[]): boolean {
  return params.some(({ name, type }) => rowBytes.has(name) && byteLength(type) >= HUGE_TABLE);
}

/** Returns the choices for a model; null: nothing of it can be streamed. */
export function residencies(request: ResidencyRequest): Residencies | null {
  const { executor, programs, params, chains } = request;
  const byName = new Map(params.map((param) => [param.name, param]));
  const isLarge = ({ name }: ParamInfo) => byteLength(byName.get(matrixOf(name))!.type) >= LEAST_BYTES;
  const frozen = params.filter((param) => !param.trainable && isLarge(param) && request.canStream(param));
  const trained = params.filter((param) => param.trainable).map(({ name }) => name);
  const streamable = new Set([...frozen.map(({ name }) => name), ...trained]);
  // Where ids count rows of something else, too, such as an adapter's, they cannot be numbered anew: the table stays in memory, or is read whole.
  const inMemory = tablesOf(request, new Set(frozen.map(({ name }) => name)));
  const outside = tablesOf(request, streamable);
  for (const name of inMemory.pinned) if (!byName.get(name)!.trainable) streamable.delete(name);
  /** One sequence with each program of each kind of segment. */
  const sequence: SequenceProgram[] = [];
  const groups = new Map<string, Group>();
  const seen = new Set<unknown>();
  for (const segment of chains.flat()) {
    const parts = programsOf(segment.model).map(([, graph]) => sequenceProgram(executor, programs, segment, graph));
    if (!seen.has(segment.model)) sequence.push(...parts);
    seen.add(segment.model);
    if (groups.has(segment.name)) continue;
    const { uses } = sequenceUses(parts, { streamed: new Set(frozen.map(({ name }) => name)), rows: inMemory.gathered });
    const names = [
      ...new Set([...segment.params.values()].filter((name) => streamable.has(name) && !byName.get(name)!.trainable)),
    ];
    const read = names.filter((name) => parts.some((part) => readsWhole(part, name)));
    const bytes = read.reduce((sum, name) => sum + byteLength(byName.get(name)!.type), 0);
    if (bytes > 0)
      groups.set(segment.name, { names: read, bytes, passes: uses.reduce((sum, use) => sum + use.bytes, 0) / bytes });
  }
  const tables = [...inMemory.gathered];
  if (groups.size === 0 && tables.length === 0 && trained.length === 0) return null;
  const rowBytes = (name: string): number => {
    const { type } = byName.get(name)!;
    return byteLength(type) / type.shape[0]!;
  };
  const all = [...groups.values()];
  const bytes = all.reduce((sum, group) => sum + group.bytes, 0);
  return {
    bytes,
    trains: trained.length > 0,
    hasTables: tables.length > 0,
    keeping(share, window, isTrainedOutside = false) {
      const kept = new Set(keptGroups(all, share * bytes).flatMap(({ names }) => names));
      const left = [...all.flatMap(({ names }) => names), ...tables].filter((name) => !kept.has(name));
      const streamed = new Set([...left, ...(isTrainedOutside ? trained : [])]);
      const byRows = isTrainedOutside ? outside : inMemory;
      const rows = new Map([...byRows.gathered].filter((name) => streamed.has(name)).map((name) => [name, rowBytes(name)]));
      const sizes = windowSizes(sequenceUses(sequence, { streamed, rows }).uses);
      return { streamed, window: sizes[window], rowBytes: rows, isTrainedOutside };
    },
  };
}

/** The tables that may be read by rows, and those that may not because their rows cannot be numbered anew. */
function tablesOf({ executor, chains }: ResidencyRequest, streamable: ReadonlySet<string>) {
  const gathered = new Set<string>();
  const pinned = new Set<string>();
  for (const { params: names, model } of chains.flat()) {
    for (const [, graph] of programsOf(model)) {
      const { tables, alone } = tableInputs(graph, executor.halves === "weights");
      for (const list of new Set(tables.values())) {
        const read = [...tables].filter(([, other]) => other === list).map(([input]) => names.get(input)!);
        const isFree = alone.has(list) && read.every((name) => streamable.has(name));
        for (const name of read) (isFree ? gathered : pinned).add(name);
      }
    }
  }
  for (const name of pinned) gathered.delete(name);
  return { gathered, pinned };
}

function readsWhole({ program, params, gathered }: SequenceProgram, name: string): boolean {
  return program.reads.some(({ input }) => params.get(input) === name && !gathered.has(input));
}

/** Groups of at most `budget` bytes. */
function keptGroups(groups: readonly Group[], budget: number): Group[] {
  const kept: Group[] = [];
  let left = budget;
  const classes = new Map<number, Group[]>();
  for (const group of groups) classes.set(group.passes, [...(classes.get(group.passes) ?? []), group]);
  for (const [, members] of [...classes].sort(([a], [b]) => b - a)) {
    const mean = members.reduce((sum, { bytes }) => sum + bytes, 0) / members.length;
    const count = Math.min(members.length, Math.floor(left / mean));
    for (let i = 0; i < count; i++) {
      const group = members[Math.floor(((i + 0.5) * members.length) / count)]!;
      if (group.bytes > left) continue;
      kept.push(group);
      left -= group.bytes;
    }
  }
  return kept;
}

/** Bytes of what streamed weights need in memory, for batches of `tokens` tokens. */
export function windowBytes({ window, rowBytes }: Residency, tokens: number): number {
  return (
    align(window) +
    [...rowBytes.values()].reduce((sum, bytes) => sum + align(bytes * tokens), rowBytes.size > 0 ? align(4 * tokens) : 0)
  );
}
