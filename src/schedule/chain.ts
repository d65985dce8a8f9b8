/**
 * A chain: the segments 1..n of a training step with their sizes (bytes) and times (any one unit). It is all that the
 * planner knows about a model. Boundary j lies between segments j and j + 1; boundary 0 is the input of the chain.
 */

/** One way to run a segment with a tape: the chain's own row (k = 0) or an extra variant (selective saving). */
export interface Variant {
  /** Time of the taped forward and of the backward that reads this tape. */
  readonly uf: number;
  readonly ub: number;
  /** Bytes of the tape, the segment's input and output excluded. */
  readonly r: number;
  /** Workspace of the taped forward and of the backward (neither contains boundaries or boundary gradients). */
  readonly of: number;
  readonly ob: number;
}

/** A fused replay: forward and backward in one program, which leaves no tape. */
export interface Replay {
  readonly ub: number;
  readonly ob: number;
}

/** Where boundaries and tapes may go while they are not needed (a file, host memory), and how fast. */
export interface Link {
  /** Bytes per unit of time, each way. Both ways run at the same time, beside the computation. */
  readonly out: number;
  readonly in: number;
  /** Smaller items stay in memory. */
  readonly leastBytes: number;
  /** Bytes of unfinished copies, at most; a copy that alone is larger waits for all others. */
  readonly inFlight: number;
}

export interface Chain {
  readonly n: number;
  /** [n+1] bytes of boundary j. */
  readonly a: readonly number[];
  /** [n+1] bytes of the gradient of boundary j; 0 where none is needed. */
  readonly g: readonly number[];
  /** [n] by segment, segment 1 first: tape bytes. */
  readonly r: readonly number[];
  /** [n] forward and backward time. */
  readonly uf: readonly number[];
  readonly ub: readonly number[];
  /** [n] workspace bytes of forward and backward. */
  readonly of: readonly number[];
  readonly ob: readonly number[];
  /** [n] workspace bytes of the taped forward of the chain's own row; that of the forward where it is not given. */
  readonly ot: readonly number[];
  /** [n] bytes of parameter gradients that backward i allocates first (0 when they are resident). */
  readonly w: readonly number[];
  /** Segments 1..frozen need no backward. */
  readonly frozen: number;
  /** [n] extra variants of each segment: k = 1, 2, ... */
  readonly variants: readonly (readonly Variant[])[];
  /** [n] fused replay of each segment, or null. */
  readonly replay: readonly (Replay | null)[];
  /** Null when everything stays in memory. */
  readonly offload: Link | null;
}

/** Describes what may be left out of a chain; see `makeChain`. */
export type ChainInput = Pick<Chain, "a" | "r" | "uf" | "ub"> &
  Partial<Pick<Chain, "g" | "of" | "ob" | "ot" | "w" | "frozen">> & {
    readonly variants?: readonly (readonly Variant[] | null)[];
    readonly replay?: readonly (Replay | null)[];
    readonly offload?: (Pick<Link, "out" | "in"> & Partial<Link>) | null;
  };

/** A chain that is not one; the message names the entry, what it must be and what it is. */
export class ChainError extends Error {
  override name = "ChainError";
}

/**
 * Missing `of`, `ob`, `w` are 0, missing `ot` is `of`, missing `g` is `[0, a[1..n]]`, missing variants, replays and offload are
 * none; an offload's missing `leastBytes` is 0, and its missing `inFlight` is no bound.
 */
export function makeChain(input: ChainInput): Chain {
  return parseChain(input);
}

/** Reads a chain from a parsed JSON value and checks it. Throws `ChainError`. */
export function parseChain(value: unknown): Chain {
  const object = record(value, "the chain");
  const a = numbers(object, "a", undefined, []);
  const n = a.length - 1;
  if (n < 1) throw new ChainError(`a must list the sizes of n + 1 boundaries with n >= 1, but has ${a.length} entries`);
  if (object["n"] !== undefined && object["n"] !== n) {
    throw new ChainError(`n must be the number of boundaries in a minus 1, ${n}, but is ${shown(object["n"])}`);
  }
  const zeros = Array.from({ length: n }, () => 0);
  const chain: Chain = {
    n,
    a,
    g: numbers(object, "g", n + 1, [0, ...a.slice(1)]),
    r: numbers(object, "r", n),
    uf: numbers(object, "uf", n),
    ub: numbers(object, "ub", n),
    of: numbers(object, "of", n, zeros),
    ob: numbers(object, "ob", n, zeros),
    ot: numbers(object, "ot", n, numbers(object, "of", n, zeros)),
    w: numbers(object, "w", n, zeros),
    frozen: integer(object["frozen"] ?? 0, "frozen"),
    variants: list(object["variants"], "variants", n).map((entry, i) =>
      array(entry ?? [], `variants[${i}]`).map((variant, k) => variantOf(variant, `variants[${i}][${k}]`)),
    ),
    replay: list(object["replay"], "replay", n).map((entry, i) => (entry === null ? null : replayOf(entry, `replay[${i}]`))),
    offload: linkOf(object["offload"] ?? null),
  };
  if (chain.frozen >= n) {
    throw new ChainError(
      `frozen must be less than the number of segments, ${n}, but is ${chain.frozen}: nothing would be trained`,
    );
  }
  return chain;
}

/** Tape variant k of segment i (1-based). */
export function variant(chain: Chain, i: number, k: number): Variant | undefined {
  if (k > 0) return chain.variants[i - 1]![k - 1];
  return { uf: chain.uf[i - 1]!, ub: chain.ub[i - 1]!, r: chain.r[i - 1]!, of: chain.ot[i - 1]!, ob: chain.ob[i - 1]! };
}

/** All tape variants of segment i (1-based), k = 0 first. */
export function variantsOf(chain: Chain, i: number): readonly Variant[] {
  return [variant(chain, i, 0)!, ...chain.variants[i - 1]!];
}

/** Time of a step that recomputes nothing: every trainable segment taped in its default way, the head fused where it can be. */
export function idealTime(chain: Chain): number {
  let time = 0;
  for (let i = 1; i <= chain.n; i++) {
    const head = i === chain.n ? chain.replay[i - 1]! : null;
    time += head ? head.ub : chain.uf[i - 1]! + (i > chain.frozen ? chain.ub[i - 1]! : 0);
  }
  return time;
}

function record(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new ChainError(`${what} must be an object, but is ${shown(value)}`);
  }
  return value as Record<string, unknown>;
}

function array(value: unknown, what: string): readonly unknown[] {
  if (!Array.isArray(value)) throw new ChainError(`${what} must be an array, but is ${shown(value)}`);
  return value;
}

function list(value: unknown, what: string, length: number): readonly unknown[] {
  const entries = value === undefined || value === null ? Array.from({ length }, () => null) : array(value, what);
  if (entries.length !== length) throw new ChainError(`${what} must have ${length} entries, but has ${entries.length}`);
  return entries;
}

function amount(value: unknown, what: string): number {
  if (typeof value !== "number" || !Number.isFinite(value) || value < 0) {
    throw new ChainError(`${what} must be a finite number that is not negative, but is ${shown(value)}`);
  }
  return value;
}

function integer(value: unknown, what: string): number {
  if (!Number.isInteger(amount(value, what))) throw new ChainError(`${what} must be a whole number, but is ${shown(value)}`);
  return value as number;
}

function numbers(
  object: Record<string, unknown>,
  key: string,
  length: number | undefined,
  missing?: readonly number[],
): readonly number[] {
  const value = object[key];
  if (value === undefined && missing) return missing;
  const entries = array(value, key).map((entry, i) => amount(entry, `${key}[${i}]`));
  if (length !== undefined && entries.length !== length) {
    throw new ChainError(
      `${key} must have ${length} entries, one for each of its ${key === "g" ? "boundaries" : "segments"}, but has ${entries.length}`,
    );
  }
  return entries;
}

function variantOf(value: unknown, what: string): Variant {
  const entry = record(value, what);
  const number = (key: keyof Variant, missing?: number) => amount(entry[key] ?? missing, `${what}.${key}`);
  return { uf: number("uf"), ub: number("ub"), r: number("r"), of: number("of", 0), ob: number("ob", 0) };
}

function replayOf(value: unknown, what: string): Replay {
  const entry = record(value, what);
  return { ub: amount(entry["ub"], `${what}.ub`), ob: amount(entry["ob"] ?? 0, `${what}.ob`) };
}

function linkOf(value: unknown): Link | null {
  if (value === null) return null;
  const entry = record(value, "offload");
  const speed = (key: "out" | "in") => {
    const rate = amount(entry[key], `offload.${key}`);
    if (rate === 0) throw new ChainError(`offload.${key} must be larger than 0; leave offload out when nothing may leave memory`);
    return rate;
  };
  return {
    out: speed("out"),
    in: speed("in"),
    leastBytes: amount(entry["leastBytes"] ?? 0, "offload.leastBytes"),
    inFlight:
      entry["inFlight"] === undefined || entry["inFlight"] === Infinity
        ? Infinity
        : amount(entry["inFlight"], "offload.inFlight"),
  };
}

function shown(value: unknown): string {
  return typeof value === "number" ? String(value) : (JSON.stringify(value)?.slice(0, 60) ?? String(value));
}
