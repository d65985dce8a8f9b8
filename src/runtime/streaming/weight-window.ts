import type { Segment } from "../../graph/segment.ts";
import type { Graph } from "../../graph/types.ts";
import { planWindow, type WindowPlan, type WindowUse } from "../../schedule/window.ts";
import type { Programs } from "../chain.ts";
import type { Address, Call, Executor, NeededRead, Program } from "../executor.ts";
import { tableInputs } from "../../graph/weight-inputs.ts";

/** Reads parameters, as they lie in an executor's memory, from where they are beside the computation; see src/store. */
export interface WeightStream {
  /** Begins to read bytes of a parameter from `offset` on into the executor's memory. Returns a ticket; reads are done in order. */
  fetch(param: string, offset: number, bytes: number, address: Address): number;
  /** Reads at once, into memory of this process. @throws {UserError} a file that is not what it was */
  read(param: string, offset: number, target: Uint8Array): void;
  /** Blocks until a read is done. @throws {UserError} when it has failed */
  wait(ticket: number): void;
  /** @throws {UserError} a file that is not what it was when it was opened */
  check(): void;
  readonly counts: { readonly bytes: number; readonly waited: number; readonly busy: number };
  close(): void;
}

/** The memory that fetched weights pass through, for every sequence of programs, one at a time. */
export interface WeightWindow {
  /** Names of the parameters that have no place of their own. */
  readonly streamed: ReadonlySet<string>;
  /** By parameter of which only the rows of a batch are read: where these lie. */
  readonly rows: ReadonlyMap<string, Address>;
  /** By token: the number of its row there, i32; programs that read rows have it in the place of the batch's ids. */
  readonly rowIds: Address;
  readonly address: Address;
  readonly bytes: number;
  readonly stream: WeightStream;
}

/** A program of a sequence, with what it calls its parameters. */
export interface SequenceProgram {
  readonly program: Program;
  readonly params: Segment["params"];
  /** Inputs of which only gathered rows are read, with the inputs that list these. */
  readonly gathered: ReadonlyMap<string, string>;
}

/** The program of a segment's graph, as a part of a sequence. */
export function sequenceProgram(
  executor: Pick<Executor, "halves">,
  programs: Programs,
  { params }: Segment,
  graph: Graph,
): SequenceProgram {
  return { program: programs.of(graph), params, gathered: tableInputs(graph, executor.halves === "weights").tables };
}

/** The reads of a sequence of programs through the window, in order. */
export interface SequenceUses {
  readonly uses: readonly WindowUse[];
  /** By program: the number of its first command in the count of the sequence. */
  readonly starts: readonly number[];
  /** By program: the number of the use of each of its reads; -1: it is read elsewhere. */
  readonly useOf: readonly Int32Array[];
}

/** @param rows parameters of which single rows are read, where the programs read no more of them */
export function sequenceUses(
  sequence: readonly SequenceProgram[],
  { streamed, rows }: { readonly streamed: ReadonlySet<string>; readonly rows: { has(name: string): boolean } },
): SequenceUses {
  const uses: WindowUse[] = [];
  const starts: number[] = [];
  const useOf: Int32Array[] = [];
  let start = 0;
  for (const { program, params, gathered } of sequence) {
    starts.push(start);
    useOf.push(
      Int32Array.from(program.reads, ({ input, offset, bytes, command }) => {
        const name = params.get(input)!;
        if (!streamed.has(name) || (gathered.has(input) && rows.has(name))) return -1;
        return uses.push({ key: `${offset} ${bytes} ${name}`, bytes, at: start + command }) - 1;
      }),
    );
    start += program.commands;
  }
  return { uses, starts, useOf };
}

/** A sequence of programs bound to the window. */
export interface WindowSequence {
  readonly plan: WindowPlan;
  /** Addresses of a program's reads, for `Executor.bind`. */
  places(index: number): (Address | null)[];
  /** Begins a run of the whole sequence. */
  begin(): void;
  /** Runs program `index` of the sequence, the one behind that of the last call. Returns the seconds that it computed. */
  run(index: number, call: Call): number;
}

/** @throws {Error} a window that is too small for the sequence */
export function bindWindow(executor: Executor, window: WeightWindow, sequence: readonly SequenceProgram[]): WindowSequence {
  const { stream } = window;
  const { uses, starts, useOf } = sequenceUses(sequence, window);
  const plan = planWindow(uses, window.bytes);
  if (!plan) throw new Error(`a window of ${window.bytes} bytes is too small`);
  const { loads, loadOf } = plan;
  const sources = new Map<string, { readonly param: string; readonly offset: number }>();
  sequence.forEach(({ program, params }, i) =>
    program.reads.forEach(({ input, offset }, k) => {
      const use = useOf[i]![k]!;
      if (use >= 0) sources.set(uses[use]!.key, { param: params.get(input)!, offset });
    }),
  );
  /** By use, and by load that of its first use: the count that says whether it is needed, and the command of the sequence behind which it is known. */
  const conditions: (Condition | null)[] = uses.map(() => null);
  sequence.forEach(({ program }, i) =>
    program.reads.forEach(({ needed }, k) => {
      const use = useOf[i]![k]!;
      if (use >= 0 && needed) conditions[use] = { offset: needed.offset, known: starts[i]! + needed.known };
    }),
  );
  const firstUses = new Map<number, number>();
  loadOf.forEach((load, use) => firstUses.has(load) || firstUses.set(load, use));
  const conditionOf = loads.map((_, load) => conditions[firstUses.get(load)!]!);
  const tickets = new Int32Array(loads.length);
  let begun = 0;
  /** The last ticket. */
  let latest = LEFT_OUT;
  /** The program that is running. */
  let current: Call | null = null;
  const isNeeded = ({ offset }: Pick<Condition, "offset">): boolean => {
    const { buffer, byteOffset } = executor.read(current!.workspace + offset, 4);
    return new DataView(buffer, byteOffset).getInt32(0, true) > 0;
  };
  const fetch = (load: number): void => {
    const { key, bytes, offset } = loads[load]!;
    const { param, offset: from } = sources.get(key)!;
    latest = stream.fetch(param, from, bytes, window.address + offset);
    tickets[load] = latest;
  };
  /** Begins all loads that may begin when the commands before `at` have run, but for what then is known not to be needed. */
  const advance = (at: number): void => {
    for (; begun < loads.length && loads[begun]!.after < at; begun++) {
      const condition = conditionOf[begun]!;
      if (condition !== null && condition.known >= at) return;
      if (condition === null || isNeeded(condition)) fetch(begun);
      else tickets[begun] = LEFT_OUT;
    }
  };
  /** Waits until what a command reads is there. */
  const awaitUse = (use: number): void => {
    const load = loadOf[use]!;
    if (tickets[load] === LEFT_OUT) {
      // Another program has kept it from being read, which has other tokens.
      const condition = conditions[use]!;
      if (condition !== null && !isNeeded(condition)) return;
      fetch(load);
    }
    stream.wait(tickets[load]!);
  };
  const stops = sequence.map(({ program }, i) => stopsOf(program, useOf[i]!));
  return {
    plan,
    places: (index) => Array.from(useOf[index]!, (use) => (use < 0 ? null : window.address + loads[loadOf[use]!]!.offset)),
    begin() {
      stream.check();
      // Loads of a run that was given up may still be under way.
      if (latest !== LEFT_OUT) stream.wait(latest);
      begun = 0;
      advance(0);
    },
    run(index, call) {
      let seconds = 0;
      current = call;
      for (const { from, to, reads, needed } of stops[index]!) {
        if (needed === null || isNeeded(needed)) {
          for (const read of reads) awaitUse(useOf[index]![read]!);
          const start = performance.now();
          executor.run(call, from, to);
          seconds += (performance.now() - start) / 1000;
        }
        advance(starts[index]! + to);
      }
      return seconds;
    },
  };
}

interface Condition {
  /** In the workspace of the program. */
  readonly offset: number;
  readonly known: number;
}

/** In the place of a ticket: the load was not begun, because what it reads is not needed. Tickets are not negative. */
const LEFT_OUT = -1;

/** A part of a program: commands `from` to `to` - 1, with the reads that must be there before the first of them runs. */
interface Stop {
  readonly from: number;
  readonly to: number;
  readonly reads: readonly number[];
  /** Says when it does anything; null: always. */
  readonly needed: NeededRead | null;
}

/** Pauses before each command that reads through the window, and behind it: what it has read may be overwritten then. */
function stopsOf({ commands, reads }: Program, useOf: Int32Array): Stop[] {
  const marks = new Set([0, commands]);
  reads.forEach(({ command, needed }, i) => {
    if (useOf[i]! < 0) return;
    marks.add(command).add(command + 1);
    // What is needed can be fetched from then on; all of what is not is passed over.
    if (needed)
      marks
        .add(needed.known + 1)
        .add(needed.first)
        .add(needed.end);
  });
  const sorted = [...marks].sort((a, b) => a - b);
  const parts = reads.flatMap(({ needed }, i) => (needed && useOf[i]! >= 0 ? [needed] : []));
  return sorted.slice(1).map((to, i): Stop => {
    const from = sorted[i]!;
    const needed = parts.findLast(({ first }) => first <= from);
    return {
      from,
      to,
      needed: needed && to <= needed.end ? needed : null,
      reads: [...useOf.keys()].filter((read) => useOf[read]! >= 0 && reads[read]!.command === from),
    };
  });
}
