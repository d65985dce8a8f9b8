import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, sameType, type TensorType } from "../graph/types.ts";
import { expectFilters, tapAt } from "./causal-conv.ts";
import { type BodyBuilder, defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

type Types = readonly (TensorType | null | undefined)[];

function sizesOf([x, weight, , , position]: Types) {
  const [tokens = 0, channels = 0] = x?.shape ?? [];
  return { tokens, channels, width: weight?.shape[2] ?? 0, texts: position?.shape[0] ?? 1 };
}

/** What is kept of texts, a row [room] each, as [texts, size]; the rest of a row is for alignment alone, and what it holds stays. */
export function withRoom(body: BodyBuilder, cache: string, room: number, size: number) {
  if (room === size) return { used: cache, whole: (next: string) => next };
  const part = (from: number, to: number) => body.op("Slice", [cache, body.ints([from]), body.ints([to]), body.ints([1])]);
  return { used: part(0, size), whole: (next: string) => body.op("Concat", [next, part(size, room)], { axis: 1 }) };
}

/**
 * Which new rows of texts are kept [T, 1], and where they are in their texts: those that see something before them, and the first of a text. Others fill up
 * the program: what they see begins with them.
 */
export function keptRows(body: BodyBuilder, starts: string, position: string, tokens: number, texts: number) {
  const range = body.op("Range", [body.scalar(0, "i32"), body.scalar(tokens, "i32"), body.scalar(1, "i32")]);
  const places = texts > 1 ? position : body.op("Add", [range, position]);
  const fills = body.op("LessOrEqual", [places, starts]);
  const begins = body.op("Equal", [places, body.scalar(0, "i32")]);
  const kept = body.op("Not", [body.op("And", [fills, body.op("Not", [begins])])]);
  return { places, kept: body.op("Unsqueeze", [kept, body.ints([1])]) };
}

/** @throws {ShapeError} starts of T rows, and the position of one text, or of as many as rows */
export function expectPlaces(op: string, tokens: number, starts: Types[number], position: Types[number]): void {
  const texts = position?.shape[0] ?? 0;
  expectShape(op, "one text, or one per row", texts === 1 || texts === tokens, position);
  const isVector = (type: Types[number], length: number) => !!type && sameType(type, { dtype: "i32", shape: [length] });
  const fits = isVector(starts, tokens) && isVector(position, texts);
  expectShape(op, `starts i32[${tokens}] and position i32[${texts}]`, fits, starts, position);
}

/** @throws {ShapeError} no room for `size` numbers of each text */
export function expectCache(op: string, cache: Types[number], texts: number, size: number): void {
  const [count, room = 0] = cache?.shape ?? [];
  const fits = cache?.dtype === "f32" && cache.shape.length === 2 && count === texts && room >= size;
  expectShape(op, `a cache f32[${texts}, ${size} or more]`, fits, cache);
}

/**
 * `RollingConv(x, weight, tail, starts, position) -> y, tail'`: `CausalConv` of new rows with the last rows of their texts, which is all that is kept of
 * these: the tail f32[texts, room], of which a text has the first (width - 1) C. Of one text row i of x f32[T, C] is at position + i, of as many texts as rows at position[i] of text i. A row
 * whose start is its own place does not enter the tail, unless that is 0, where a text begins.
 */
export const RollingConv = defineOp<NoAttrs>({
  name: "RollingConv",
  domain: "remat",
  cost: "memory",
  infer([x, weight, tail, starts, position]) {
    expectFilters("RollingConv", [x, weight]);
    const { tokens, channels, width, texts } = sizesOf([x, weight, tail, starts, position]);
    expectShape("RollingConv", "filters of two taps or more", width > 1, weight);
    expectPlaces("RollingConv", tokens, starts, position);
    expectCache("RollingConv", tail, texts, (width - 1) * channels);
    return [x!, tail!];
  },
  gradient: notDifferentiable("it overwrites what it keeps; training convolves within the micro-batch (CausalConv)"),
  body(body, [x, weight, tail, starts, position], types) {
    const { tokens, channels, width, texts } = sizesOf(types);
    const perText = tokens / texts;
    const { places, kept } = keptRows(body, starts!, position!, tokens, texts);
    const grouped = (rows: string, count: number) => body.op("Reshape", [rows, body.ints([texts, count, channels])]);
    const { used, whole } = withRoom(body, tail!, types[2]!.shape[1]!, (width - 1) * channels);
    const before = grouped(used, width - 1);
    const joined = body.op("Concat", [before, grouped(x!, perText)], { axis: 1 });
    const slice = (from: number, count: number) =>
      body.op("Slice", [joined, body.ints([from]), body.ints([from + count]), body.ints([1])]);
    const terms = Array.from({ length: width }, (_, j) => {
      const rows = body.op("Reshape", [slice(width - 1 - j, perText), body.ints([tokens, channels])]);
      const isSeen = body.op("LessOrEqual", [starts!, body.op("Sub", [places, body.scalar(j, "i32")])]);
      const seen = j === 0 ? rows : body.op("Where", [body.op("Unsqueeze", [isSeen, body.ints([1])]), rows, body.scalar(0)]);
      return body.op("Mul", [seen, tapAt(body, weight!, width, j)]);
    });
    const y = terms.reduce((sum, term) => body.op("Add", [sum, term]));
    const flat = (rows: string) => whole(body.op("Reshape", [rows, body.ints([texts, (width - 1) * channels])]));
    if (texts > 1) {
      const isKept = body.op("Reshape", [kept, body.ints([texts, 1, 1])]);
      return [y, flat(body.op("Where", [isKept, slice(1, width - 1), before]))];
    }
    const count = body.op("ReduceSum", [body.op("Cast", [kept], { to: "i32" })], { keepdims: 0 });
    const range = body.op("Range", [body.scalar(0, "i32"), body.scalar(width - 1, "i32"), body.scalar(1, "i32")]);
    return [y, flat(body.op("Gather", [joined, body.op("Add", [range, count])], { axis: 1 }))];
  },
  lower(e) {
    const types = [0, 1, 2, 3, 4].map((i) => e.type(e.input(i)!));
    const { tokens, channels, width, texts } = sizesOf(types);
    const outputs = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(types[2 * i]!))));
    const joined = e.scratch(4 * channels * (texts * (width - 1) + tokens));
    const inputs = [0, 1, 2, 3, 4].map((i) => e.input(i));
    const operands = [...inputs, ...outputs, e.scratch(4 * channels * width), joined];
    for (const phase of [0, 1, 2])
      e.emit(Opcode.RollingConv, operands, [phase, tokens, channels, width, texts, types[2]!.shape[1]!]);
  },
  inPlace: [[1, 2]],
});
