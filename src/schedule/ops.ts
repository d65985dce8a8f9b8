/**
 * The steps of a schedule. `i` is a segment and `j` a boundary, both counted as in the chain; `k` is a tape variant.
 *
 * | text     | step                                                | needs               | leaves                                     |
 * | -------- | --------------------------------------------------- | ------------------- | ------------------------------------------ |
 * | `FN i`   | forward, input dropped                              | A(i-1)              | A(i)                                       |
 * | `FC i`   | forward, input kept                                 | A(i-1)              | A(i-1), A(i)                               |
 * | `FA i k` | taped forward, input kept                           | A(i-1)              | A(i-1), A(i), tape                         |
 * | `B i`    | backward                                            | A(i-1), tape, G(i)  | G(i-1)                                     |
 * | `BR i`   | fused replay: forward and backward in one program   | A(i-1), G(i)        | G(i-1)                                     |
 * | `DA j`   | drop a boundary                                     | A(j)                |                                            |
 * | `DT i`   | drop a tape                                         | tape                |                                            |
 * | `OA j`   | begin to copy a boundary outside                    | A(j)                | A(j), its copy                             |
 * | `OT i`   | begin to copy a tape outside                        | tape                | tape, its copy                             |
 * | `IA j`   | begin to fetch a boundary                           | its copy            | A(j), its copy                             |
 * | `IT i`   | begin to fetch a tape                               | its copy            | tape, its copy                             |
 *
 * Copies and fetches run beside the steps that follow. What is copied stays in memory until it is dropped, and the drop waits for
 * the end of the copy; what is fetched takes memory at once, and the first step that reads it waits. Where memory is free and
 * where the step waits are therefore decided by the schedule alone. A copy outside stays for the rest of the schedule.
 */
export type Op = Computation | Drop | Transfer;

/** A step that runs a program. */
export type Computation =
  | { readonly kind: "FN" | "FC" | "B" | "BR"; readonly i: number }
  | { readonly kind: "FA"; readonly i: number; readonly k: number };

export type Drop = { readonly kind: "DA"; readonly j: number } | { readonly kind: "DT"; readonly i: number };

/** A step that moves bytes beside the computation. */
export type Transfer = { readonly kind: "OA" | "IA"; readonly j: number } | { readonly kind: "OT" | "IT"; readonly i: number };

export type Schedule = readonly Op[];

export const FN = (i: number): Op => ({ kind: "FN", i });
export const FC = (i: number): Op => ({ kind: "FC", i });
export const FA = (i: number, k = 0): Op => ({ kind: "FA", i, k });
export const B = (i: number): Op => ({ kind: "B", i });
export const BR = (i: number): Op => ({ kind: "BR", i });
export const DA = (j: number): Op => ({ kind: "DA", j });
export const DT = (i: number): Op => ({ kind: "DT", i });
export const OA = (j: number): Op => ({ kind: "OA", j });
export const IA = (j: number): Op => ({ kind: "IA", j });
export const OT = (i: number): Op => ({ kind: "OT", i });
export const IT = (i: number): Op => ({ kind: "IT", i });

export function isComputation(op: Op): op is Computation {
  return op.kind === "FN" || op.kind === "FC" || op.kind === "FA" || op.kind === "B" || op.kind === "BR";
}

/** The boundary or tape that a step drops, copies or fetches, by kind and index; null for a computation. */
export function movedItem(op: Op): { readonly kind: "boundary" | "tape"; readonly index: number } | null {
  if (isComputation(op)) return null;
  return "j" in op ? { kind: "boundary", index: op.j } : { kind: "tape", index: op.i };
}

export function formatOp(op: Op): string {
  switch (op.kind) {
    case "FA":
      return `FA ${op.i} ${op.k}`;
    case "DA":
    case "OA":
    case "IA":
      return `${op.kind} ${op.j}`;
    default:
      return `${op.kind} ${op.i}`;
  }
}

export function formatSchedule(schedule: Schedule): string[] {
  return schedule.map(formatOp);
}

/** Reads `FC 1`, `FA 3 1` (`FA 3` is `FA 3 0`), `B 3`, `DA 2`, `OT 2` and so on. Throws on anything else. */
export function parseOp(text: string): Op {
  const [, kind, first, second] = /^(FN|FC|FA|BR|B|DA|DT|OA|OT|IA|IT) (\d+)(?: (\d+))?$/.exec(text.trim()) ?? [];
  if (!kind || !first || (second !== undefined && kind !== "FA")) {
    throw new Error(`expected a step such as "FC 1", "FA 3 0", "B 3" or "DA 2", got ${JSON.stringify(text)}`);
  }
  const index = Number(first);
  if (kind === "FA") return FA(index, Number(second ?? 0));
  if (kind === "DA" || kind === "OA" || kind === "IA") return { kind, j: index };
  if (kind === "DT" || kind === "OT" || kind === "IT") return { kind, i: index };
  return { kind: kind as "FN" | "FC" | "B" | "BR", i: index };
}

export function parseSchedule(texts: readonly string[]): Op[] {
  return texts.map(parseOp);
}
