import type { BodyBuilder } from "./types.ts";

/**
 * The gated delta rule and its gradient in standard operators. Values are [chunks, heads, rows, ...]; what a row has of other texts in its chunk is
 * masked away. All chunks are computed at once but for the state that goes from chunk to chunk. The formulas are those of assembly/gated-delta.ts
 * and gated-delta-grad.ts, with pieces that are whole chunks, and (I + beta L)^-1 instead of a solution row by row.
 */

/** Rows between two states. */
export const CHUNK = 64;

export interface DeltaSizes {
  readonly tokens: number;
  readonly keyHeads: number;
  readonly heads: number;
  readonly keyDim: number;
  readonly valueDim: number;
  /** Rows of a chunk. */
  readonly rows: number;
  readonly chunks: number;
}

/** Few operators, by short names. */
function mathOf(body: BodyBuilder) {
  const binary = (name: string) => (a: string, b: string) => body.op(name, [a, b]);
  const sum = (x: string, axes: readonly number[], keepdims = 1) => body.op("ReduceSum", [x, body.ints(axes)], { keepdims });
  return {
    add: binary("Add"),
    sub: binary("Sub"),
    mul: binary("Mul"),
    matmul: binary("MatMul"),
    neg: (x: string) => body.op("Neg", [x]),
    exp: (x: string) => body.op("Exp", [x]),
    sum,
    /** x with its last two axes changed for each other. */
    transposed: (x: string) => body.op("Transpose", [x], { perm: [0, 1, 3, 2] }),
    reshaped: (x: string, shape: readonly number[]) => body.op("Reshape", [x, body.ints(shape)]),
    concat: (parts: readonly string[], axis: number) => (parts.length === 1 ? parts[0]! : body.op("Concat", parts, { axis })),
    /** x where `condition` is true, 0 elsewhere. */
    where: (condition: string, x: string) => body.op("Where", [condition, x, body.scalar(0)]),
    slice: (x: string, axis: number, from: number, to: number) =>
      body.op("Slice", [x, body.ints([from]), body.ints([to]), body.ints([axis])]),
    split: (x: string, axis: number, sizes: readonly number[]) =>
      sizes.length === 1 ? [x] : body.ops("Split", [x, body.ints(sizes)], { axis }, sizes.length),
    zeros: (shape: readonly number[]) => body.op("Expand", [body.scalar(0), body.ints(shape)]),
  };
}

/** [tokens, heads * dim] as [chunks, heads, rows, dim], filled up with zeros. */
function toChunks(body: BodyBuilder, x: string, dim: number, sizes: DeltaSizes): string {
  const m = mathOf(body);
  const { tokens, heads, rows, chunks } = sizes;
  const all = rows * chunks;
  const filled = all === tokens ? x : m.concat([x, m.zeros([all - tokens, heads * dim])], 0);
  return body.op("Transpose", [m.reshaped(filled, [chunks, rows, heads, dim])], { perm: [0, 2, 1, 3] });
}

/** The way back. */
function fromChunks(body: BodyBuilder, x: string, dim: number, { tokens, heads, rows, chunks }: DeltaSizes): string {
  const m = mathOf(body);
  const all = rows * chunks;
  const flat = m.reshaped(body.op("Transpose", [x], { perm: [0, 2, 1, 3] }), [all, heads * dim]);
  return all === tokens ? flat : m.slice(flat, 0, 0, tokens);
}

/** The masks of a chunk: who sees whom, itself included and not, and which rows go on with the text of the chunk before. */
function masksOf(body: BodyBuilder, starts: string, sizes: DeltaSizes) {
  const m = mathOf(body);
  const { tokens, rows, chunks } = sizes;
  const all = rows * chunks;
  // What fills the last chunk goes on with the last text, to which it adds nothing.
  const last = m.slice(starts, 0, tokens - 1, tokens);
  const filled = all === tokens ? starts : m.concat([starts, body.op("Expand", [last, body.ints([all - tokens])])], 0);
  const begins = m.reshaped(filled, [chunks, 1, rows, 1]);
  const range = (count: number, step: number) =>
    body.op("Range", [body.scalar(0, "i32"), body.scalar(count * step, "i32"), body.scalar(step, "i32")]);
  const places = range(all, 1);
  const [down, across] = [m.reshaped(places, [chunks, 1, rows, 1]), m.reshaped(places, [chunks, 1, 1, rows])];
  const isMine = body.op("LessOrEqual", [begins, across]);
  const isBefore = body.op("LessOrEqual", [across, down]);
  const seen = body.op("And", [isMine, isBefore]);
  return {
    seen,
    before: body.op("And", [seen, body.op("Not", [body.op("Equal", [across, down])])]),
    continues: body.op("Not", [body.op("LessOrEqual", [m.reshaped(range(chunks, rows), [chunks, 1, 1, 1]), begins])]),
  };
}

/**
 * (I + M)^-1 of strictly lower triangular M, by blocks of 1, 2, 4, ... rows: of two blocks on the diagonal with the inverses A and C, and B below the
 * first one, the inverse is A, C and -C B A. No sum grows on the way, as sums of powers of M do.
 */
function inverse(body: BodyBuilder, matrix: string, rows: number): string {
  const m = mathOf(body);
  const ids = (size: number, shape: readonly number[]) =>
    body.constant({ dtype: "i32", shape, data: Array.from({ length: rows }, (_, i) => Math.floor(i / size)) });
  const together = (size: number) => body.op("Equal", [ids(size, [rows, 1]), ids(size, [1, rows])]);
  let same = together(1);
  let result = body.op("Reshape", [body.op("Cast", [same], { to: "f32" }), body.ints([1, 1, rows, rows])]);
  for (let size = 1; size < rows; size *= 2) {
    const wider = together(2 * size);
    const below = m.where(body.op("And", [wider, body.op("Not", [same])]), matrix);
    result = m.sub(result, m.matmul(result, size === 1 ? below : m.matmul(below, result)));
    same = wider;
  }
  return result;
}

type Names = readonly string[];

/**
 * Computes what forward, gradient and decoding have in common.
 * @param kept f32[tokens, 1], 0 where a row leaves the state as it is
 */
function prepare(body: BodyBuilder, [qkv, a, b, aLog, dtBias, starts]: Names, sizes: DeltaSizes, kept: string | null = null) {
  const m = mathOf(body);
  const { tokens, keyHeads, heads, keyDim, valueDim, rows } = sizes;
  const group = heads / keyHeads;
  const [q, k, v] = m.split(qkv!, 1, [keyHeads * keyDim, keyHeads * keyDim, heads * valueDim]) as [string, string, string];
  /** Unit vectors [tokens, keyHeads, keyDim], and 1 / norm. */
  const unit = (x: string) => {
    const vectors = m.reshaped(x, [tokens, keyHeads, keyDim]);
    const norm = body.op("Sqrt", [m.add(m.sum(m.mul(vectors, vectors), [2]), body.scalar(1e-6))]);
    const r = body.op("Reciprocal", [norm]);
    return { vectors: m.mul(vectors, r), r };
  };
  const repeated = (x: string) => {
    const wide =
      group === 1
        ? x
        : body.op("Expand", [m.reshaped(x, [tokens, keyHeads, 1, keyDim]), body.ints([tokens, keyHeads, group, keyDim])]);
    return toChunks(body, m.reshaped(wide, [tokens, heads * keyDim]), keyDim, sizes);
  };
  const [queryUnits, keyUnits] = [unit(q), unit(k)];
  const scale = body.scalar(1 / Math.sqrt(keyDim));
  const [Q, K] = [repeated(m.mul(queryUnits.vectors, scale)), repeated(keyUnits.vectors)];
  const V = toChunks(body, v, valueDim, sizes);

  const x = m.add(a!, dtBias!);
  const positive = body.op("Relu", [x]);
  // softplus(x) = max(x, 0) + log(1 + e^-|x|)
  const rest = m.exp(m.sub(x, m.add(positive, positive)));
  const softplus = m.add(positive, body.op("Log", [m.add(rest, body.scalar(1))]));
  const rate = m.neg(m.exp(aLog!));
  const among = (gate: string) => (kept === null ? gate : m.mul(gate, kept));
  const g = among(m.mul(softplus, rate));
  const sigmoid = among(body.op("Sigmoid", [b!]));
  const beta = toChunks(body, sigmoid, 1, sizes);
  const masks = masksOf(body, starts!, sizes);
  const lower = Array.from({ length: rows * rows }, (_, i) => (i % rows <= Math.floor(i / rows) ? 1 : 0));
  const upTo = body.constant({ dtype: "f32", shape: [rows, rows], data: lower });
  const G = m.matmul(upTo, toChunks(body, g, 1, sizes));
  const D = m.where(masks.seen, m.exp(m.where(masks.seen, m.sub(G, m.transposed(G)))));
  const e = m.where(masks.continues, m.exp(G));
  const toEnd = m.transposed(m.slice(D, 2, rows - 1, rows));
  const remains = m.slice(e, 2, rows - 1, rows);
  const P = m.mul(m.matmul(Q, m.transposed(K)), D);
  const L = m.where(masks.before, m.mul(m.matmul(K, m.transposed(K)), D));
  const T = inverse(body, m.mul(beta, L), rows);
  const U = m.matmul(T, m.mul(beta, V));
  const W = m.matmul(T, m.mul(m.mul(beta, e), K));
  return { Q, K, V, beta, D, e, toEnd, remains, P, L, T, U, W, masks, upTo, queryUnits, keyUnits, scale, x, g, rate, sigmoid };
}

const onesOf = (count: number): number[] => Array<number>(count).fill(1);

type Prepared = ReturnType<typeof prepare>;

/** Goes from chunk to chunk, from a state on (null: 0): gives what the rows add to the state, and the states behind the chunks. */
function scan(body: BodyBuilder, { K, toEnd, remains, U, W }: Prepared, chunks: number, initial: string | null) {
  const m = mathOf(body);
  const parts = (x: string) => m.split(x, 0, onesOf(chunks));
  const [us, ws, keys, decays] = [U, W, m.transposed(m.mul(K, toEnd)), remains].map(parts) as unknown as [
    Names,
    Names,
    Names,
    Names,
  ];
  const states: string[] = [];
  const added = us.map((u, chunk) => {
    const state = states.at(-1) ?? initial;
    const news = state === null ? u : m.sub(u, m.matmul(ws[chunk]!, state));
    const change = m.matmul(keys[chunk]!, news);
    states.push(state === null ? change : m.add(m.mul(decays[chunk]!, state), change));
    return news;
  });
  return { added: m.concat(added, 0), states };
}

export function gatedDeltaBody(body: BodyBuilder, inputs: Names, sizes: DeltaSizes): string[] {
  const m = mathOf(body);
  const { heads, keyDim, valueDim, chunks } = sizes;
  const prepared = prepare(body, inputs, sizes);
  const { Q, e, P } = prepared;
  const { added, states } = scan(body, prepared, chunks, null);
  const own = m.matmul(P, added);
  const before = m.concat([m.zeros([1, heads, keyDim, valueDim]), ...states.slice(0, -1)], 0);
  const out = chunks === 1 ? own : m.add(own, m.matmul(m.mul(Q, e), before));
  return [fromChunks(body, out, valueDim, sizes), m.concat(states, 0)];
}

/**
 * The rule for new rows of one text, or one row of each of several, which are a chunk each then.
 * @param inputs qkv, a, b, aLog, dtBias, state
 * @param marks which rows are kept [tokens, 1], and which texts begin [texts, 1, 1, 1]
 */
export function goOnBody(
  body: BodyBuilder,
  [qkv, a, b, aLog, dtBias, state]: Names,
  sizes: DeltaSizes,
  marks: { readonly kept: string; readonly isNew: string; readonly texts: number },
): string[] {
  const m = mathOf(body);
  const { tokens, heads, keyDim, valueDim, chunks } = sizes;
  const { kept, isNew, texts } = marks;
  const isKept = body.op("Cast", [kept], { to: "f32" });
  // All rows go on with what is before them.
  const starts = body.op("Expand", [body.scalar(-1, "i32"), body.ints([tokens])]);
  const prepared = prepare(body, [qkv!, a!, b!, aLog!, dtBias!, starts], sizes, isKept);
  const { Q, K, e, toEnd, remains, P, U, W } = prepared;
  const first = m.where(body.op("Not", [isNew]), m.reshaped(state!, [texts, heads, keyDim, valueDim]));
  const result = (added: string, before: string, next: string): string[] => {
    const out = fromChunks(body, m.add(m.matmul(P, added), m.matmul(m.mul(Q, e), before)), valueDim, sizes);
    return [m.where(kept, out), m.reshaped(next, [texts, heads * keyDim * valueDim])];
  };
  if (texts === 1) {
    const { added, states } = scan(body, prepared, chunks, first);
    return result(added, m.concat([first, ...states.slice(0, -1)], 0), states.at(-1)!);
  }
  const added = m.sub(U, m.matmul(W, first));
  return result(added, first, m.add(m.mul(remains, first), m.matmul(m.transposed(m.mul(K, toEnd)), added)));
}

export function gatedDeltaGradBody(body: BodyBuilder, [dOut, ...inputs]: Names, sizes: DeltaSizes): string[] {
  const m = mathOf(body);
  const { tokens, keyHeads, heads, keyDim, valueDim, rows, chunks } = sizes;
  const p = prepare(body, inputs, sizes);
  const { Q, K, V, beta, D, e, toEnd, remains, P, L, T, U, W, masks } = p;
  const first = m.zeros([1, heads, keyDim, valueDim]);
  const S = chunks === 1 ? first : m.concat([first, m.slice(inputs[6]!, 0, 0, chunks - 1)], 0);
  const dO = toChunks(body, dOut!, valueDim, sizes);
  const added = m.sub(U, m.matmul(W, S));
  const minusRead = m.neg(m.mul(beta, e));
  const parts = (x: string) => m.split(x, 0, onesOf(chunks));
  const fromOutput = [m.matmul(m.transposed(P), dO), m.matmul(m.transposed(m.mul(Q, e)), dO)];
  const [own, reads] = fromOutput.map(parts) as unknown as [Names, Names];
  const [inverses, reading, keys, keysT, decays] = [m.transposed(T), minusRead, m.mul(K, toEnd), m.transposed(K), remains].map(
    parts,
  ) as Names[];
  const dNews: string[] = [];
  const dStates: string[] = [];
  let dState = first;
  for (let chunk = chunks - 1; chunk >= 0; chunk--) {
    dStates.unshift(dState);
    const dAdded = m.add(own[chunk]!, m.matmul(keys![chunk]!, dState));
    const dNew = m.matmul(inverses![chunk]!, dAdded);
    dNews.unshift(dNew);
    const change = m.add(reads[chunk]!, m.matmul(keysT![chunk]!, m.mul(reading![chunk]!, dNew)));
    dState = m.add(change, m.mul(decays![chunk]!, dState));
  }
  const [dA, dNext] = [m.concat(dNews, 0), m.concat(dStates, 0)];
  const dV = m.mul(beta, dA);
  const Y = m.neg(m.mul(e, dV));
  const news = m.sub(m.sub(V, m.mul(e, m.matmul(K, S))), m.matmul(L, added));
  const dBeta = m.sum(m.mul(dA, news), [3]);
  const dP = m.where(masks.seen, m.matmul(dO, m.transposed(added)));
  const dL = m.neg(m.where(masks.before, m.matmul(dV, m.transposed(added))));
  const both = m.add(m.mul(dP, P), m.mul(dL, L));
  const [dQueries, dKeys] = [m.matmul(m.mul(e, dO), m.transposed(S)), m.matmul(Y, m.transposed(S))];
  const pulled = m.mul(toEnd, m.matmul(added, m.transposed(dNext)));
  const change = m.sum(m.mul(K, pulled), [3]);
  const atEnd = m.add(m.sum(change, [2]), m.mul(remains, m.sum(m.mul(dNext, S), [2, 3])));
  const isLast = body.constant({
    dtype: "f32",
    shape: [rows, 1],
    data: Array.from({ length: rows }, (_, i) => (i === rows - 1 ? 1 : 0)),
  });
  const ofScores = m.sub(m.sum(both, [3]), m.transposed(m.sum(both, [2])));
  const ofReads = m.add(m.sum(m.mul(Q, dQueries), [3]), m.sum(m.mul(K, dKeys), [3]));
  const dG = m.add(m.sub(m.add(ofScores, ofReads), change), m.mul(isLast, atEnd));
  const dg = fromChunks(body, m.matmul(body.op("Transpose", [p.upTo], { perm: [1, 0] }), dG), 1, sizes);

  const [decayedP, decayedL] = [m.mul(D, dP), m.mul(D, dL)];
  const dQ = m.add(dQueries, m.matmul(decayedP, K));
  const symmetric = m.add(decayedL, m.transposed(decayedL));
  const dK = [dKeys, m.matmul(m.transposed(decayedP), Q), m.matmul(symmetric, K), pulled].reduce(m.add);
  /** The gradient of vectors before they were unit vectors, summed over the heads that share them. */
  const back = (d: string, { vectors, r }: { vectors: string; r: string }, factor: string | null) => {
    const flat = m.reshaped(fromChunks(body, d, keyDim, sizes), [tokens, keyHeads, heads / keyHeads, keyDim]);
    const summed = m.sum(flat, [2], 0);
    const dUnit = factor === null ? summed : m.mul(summed, factor);
    const along = m.mul(vectors, m.sum(m.mul(vectors, dUnit), [2]));
    return m.reshaped(m.mul(r, m.sub(dUnit, along)), [tokens, keyHeads * keyDim]);
  };
  const dqkv = m.concat([back(dQ, p.queryUnits, p.scale), back(dK, p.keyUnits, null), fromChunks(body, dV, valueDim, sizes)], 1);
  const da = m.mul(m.mul(dg, p.rate), body.op("Sigmoid", [p.x]));
  const slope = m.mul(p.sigmoid, m.sub(body.scalar(1), p.sigmoid));
  const db = m.mul(fromChunks(body, dBeta, 1, sizes), slope);
  return [dqkv, da, db, m.sum(m.mul(dg, p.g), [0], 0), m.sum(da, [0], 0)];
}
