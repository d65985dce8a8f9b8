/**
 * A set of texts, as bytes: what a regular expression says, and with references that lead back to themselves what a context-free grammar says.
 * Expressions are told apart by identity.
 */
export type Expression = Bytes | Sequence | Choice | Repeat | Reference;

/** One byte of a set. */
export interface Bytes {
  readonly kind: "bytes";
  /** 1 for each byte that is in the set. */
  readonly set: Uint8Array;
}

export interface Sequence {
  readonly kind: "sequence";
  readonly items: readonly Expression[];
}

export interface Choice {
  readonly kind: "choice";
  readonly options: readonly Expression[];
}

/** One thing, which is not empty, from `least` to `most` times. */
export interface Repeat {
  readonly kind: "repeat";
  readonly item: Expression;
  readonly least: number;
  readonly most: number;
  /** The same with one time fewer. */
  readonly rest: () => Repeat;
}

/** Something that is told later. */
export interface Reference {
  readonly kind: "reference";
  target: Expression | null;
}

export const EMPTY: Sequence = { kind: "sequence", items: [] };

const single = Array.from({ length: 256 }, (_, byte) => bytes([byte, byte]));

/** @param ranges first and last byte of each */
export function bytes(...ranges: readonly (readonly [first: number, last: number])[]): Bytes {
  const set = new Uint8Array(256);
  for (const [first, last] of ranges) set.fill(1, first, last + 1);
  return { kind: "bytes", set };
}

/** One of some characters of ASCII. */
export const oneOf = (characters: string): Bytes => bytes(...[...Buffer.from(characters)].map((byte) => [byte, byte] as const));

export const text = (written: string): Sequence => ({
  kind: "sequence",
  items: [...Buffer.from(written)].map((byte) => single[byte]!),
});

/** Texts and expressions in a row. */
export const sequence = (...items: readonly (Expression | string)[]): Sequence => ({
  kind: "sequence",
  items: items.map((item) => (typeof item === "string" ? text(item) : item)),
});

export const choice = (...options: readonly Expression[]): Expression =>
  options.length === 1 ? options[0]! : { kind: "choice", options };

export const optional = (item: Expression): Choice => ({ kind: "choice", options: [EMPTY, item] });

/** @param item is not empty */
export function repeat(item: Expression, least: number, most: number = Infinity): Repeat {
  let rest: Repeat | null = null;
  const self: Repeat = {
    kind: "repeat",
    item,
    least,
    most,
    rest: () => (rest ??= least === 0 && most === Infinity ? self : repeat(item, Math.max(0, least - 1), most - 1)),
  };
  return self;
}

/** One of some texts; those that begin alike share their beginning. */
export function oneText(texts: readonly string[]): Expression {
  const sorted = [...new Set(texts)].map((written) => Buffer.from(written)).sort(Buffer.compare);
  const from = (all: readonly Buffer[], at: number): Expression => {
    const [first, last] = [all[0]!, all.at(-1)!];
    let end = at;
    while (end < first.length && first[end] === last[end]) end++;
    const shared = [...first.subarray(at, end)].map((byte) => single[byte]!);
    if (all.length === 1) return { kind: "sequence", items: shared };
    const groups = Map.groupBy(all, (written) => written[end]);
    const options = [...groups].map(([byte, group]) => (byte === undefined ? EMPTY : from(group, end)));
    return { kind: "sequence", items: [...shared, choice(...options)] };
  };
  return from(sorted, 0);
}

/** The length of the shortest text of each expression in another, in bytes; Infinity where none is finite. */
export function measure(root: Expression): (expression: Expression) => number {
  const lengths = new Map<Reference, number>();
  let known = new Map<Expression, number>();
  const of = (expression: Expression): number => {
    let length = known.get(expression);
    if (length === undefined) known.set(expression, (length = compute(expression)));
    return length;
  };
  const compute = (expression: Expression): number => {
    switch (expression.kind) {
      case "bytes":
        return 1;
      case "sequence":
        return expression.items.reduce((sum, item) => sum + of(item), 0);
      case "choice":
        return Math.min(...expression.options.map(of));
      case "repeat":
        return expression.least === 0 ? 0 : expression.least * of(expression.item);
      case "reference":
        if (!lengths.has(expression)) lengths.set(expression, Infinity);
        return lengths.get(expression)!;
    }
  };
  // A reference is as long as its target, which may be what refers: from Infinity downwards until nothing changes.
  for (let isStable = false; !isStable;) {
    isStable = true;
    known = new Map();
    of(root);
    // Those that targets refer to join at the end of the map on the way.
    for (const [reference, length] of lengths) {
      const target = reference.target === null ? Infinity : of(reference.target);
      if (target === length) continue;
      lengths.set(reference, target);
      isStable = false;
    }
  }
  return of;
}
