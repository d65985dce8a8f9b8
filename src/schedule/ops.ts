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
 */
export type Op =
  | { readonly kind: "FN" | "FC" | "B" | "BR" | "DT"; readonly i: number }
  | { readonly kind: "FA"; readonly i: number; readonly k: number }
  | { readonly kind: "DA"; readonly j: number };

export type OpKind = Op["kind"];

export type Schedule = readonly Op[];

export const FN = (i: number): Op => ({ kind: "FN", i });
export const FC = (i: number): Op => ({ kind: "FC", i });
export const FA = (i: number, k = 0): Op => ({ kind: "FA", i, k });
export const B = (i: number): Op => ({ kind: "B", i });
export const BR = (i: number): Op => ({ kind: "BR", i });
export const DA = (j: number): Op => ({ kind: "DA", j });
export const DT = (i: number): Op => ({ kind: "DT", i });

export function formatOp(op: Op): string {
  switch (op.kind) {
    case "FA":
      return `FA ${op.i} ${op.k}`;
    case "DA":
      return `DA ${op.j}`;
    default:
      return `${op.kind} ${op.i}`;
  }
}

export function formatSchedule(schedule: Schedule): string[] {
  return schedule.map(formatOp);
}

/** Reads `FC 1`, `FA 3 1` (`FA 3` is `FA 3 0`), `B 3`, `BR 3`, `DA 2`, `DT 2`. Throws on anything else. */
export function parseOp(text: string): Op {
  const [, kind, first, second] = /^(FN|FC|FA|BR|B|DA|DT) (\d+)(?: (\d+))?$/.exec(text.trim()) ?? [];
  if (!kind || !first || (second !== undefined && kind !== "FA")) {
    throw new Error(`expected a step such as "FC 1", "FA 3 0", "B 3" or "DA 2", got ${JSON.stringify(text)}`);
  }
  const index = Number(first);
  if (kind === "FA") return FA(index, Number(second ?? 0));
  if (kind === "DA") return DA(index);
  return { kind: kind as "FN" | "FC" | "B" | "BR" | "DT", i: index };
}

export function parseSchedule(texts: readonly string[]): Op[] {
  return texts.map(parseOp);
}
