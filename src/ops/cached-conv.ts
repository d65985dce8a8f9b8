import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, sameType, type TensorType } from "../graph/types.ts";
import { expectFilters, tapAt } from "./causal-conv.ts";
import { defineOp, expectShape, type NoAttrs, notDifferentiable } from "./types.ts";

function sizesOf(types: readonly (TensorType | null | undefined)[]) {
  const [x, weight, cache, , position] = types;
  const [tokens = 0, channels = 0] = x?.shape ?? [];
  const texts = position?.shape[0] ?? 1;
  return { tokens, channels, width: weight?.shape[2] ?? 0, size: (cache?.shape[0] ?? 0) / texts, texts };
}

/**
 * `CachedConv(x, weight, cache, starts, position, bias?) -> y, cache'`: `CausalConv` of new rows with what their texts have before them. The
 * cache f32[texts * size, C] takes in the rows x f32[T, C] first: of one text row i at position + i, of as many texts as rows at position[i] of
 * text i. There it sees what its text has from starts[i] on. So a text can be taken back to any position, as it can with keys and values.
 */
export const CachedConv = defineOp<NoAttrs>({
  name: "CachedConv",
  domain: "remat",
  cost: "memory",
  infer([x, weight, cache, starts, position, bias]) {
    expectFilters("CachedConv", [x, weight, bias]);
    const { tokens, channels, size, texts } = sizesOf([x, weight, cache, starts, position]);
    expectShape("CachedConv", "one text, or one per row", texts === 1 || texts === tokens, position);
    const fits = !!cache && sameType(cache, { dtype: "f32", shape: [texts * size, channels] });
    const hasRoom = fits && Number.isInteger(size) && size >= tokens / texts;
    expectShape("CachedConv", `a cache f32[${texts} * size, ${channels}] of ${tokens / texts} rows or more`, hasRoom, cache);
    const isVector = (type: TensorType | null | undefined, length: number) =>
      !!type && sameType(type, { dtype: "i32", shape: [length] });
    const places = isVector(starts, tokens) && isVector(position, texts);
    expectShape("CachedConv", `starts i32[${tokens}] and position i32[${texts}]`, places, starts, position);
    return [x!, cache!];
  },
  gradient: notDifferentiable("it overwrites its cache; training convolves within the micro-batch (CausalConv)"),
  body(body, [x, weight, cache, starts, position, bias], types) {
    const { tokens, width, size, texts } = sizesOf(types);
    /** 0, step, ..., below count * step */
    const range = (count: number, step = 1) =>
      body.op("Range", [body.scalar(0, "i32"), body.scalar(count * step, "i32"), body.scalar(step, "i32")]);
    const column = (values: string) => body.op("Unsqueeze", [values, body.ints([1])]);
    const places = texts > 1 ? position! : body.op("Add", [range(tokens), position!]);
    const inCache = texts > 1 ? body.op("Add", [places, range(tokens, size)]) : places;
    const written = body.op("ScatterND", [cache!, column(body.op("Cast", [inCache], { to: "i64" })), x!]);
    const terms = Array.from({ length: width }, (_, j) => {
      const back = body.scalar(j, "i32");
      const isSeen = body.op("LessOrEqual", [starts!, body.op("Sub", [places, back])]);
      // A row that sees nothing so far back looks at itself instead, and at 0 in the end.
      const at = j === 0 ? inCache : body.op("Where", [isSeen, body.op("Sub", [inCache, back]), inCache]);
      const rows = body.op("Gather", [written, at], { axis: 0 });
      const seen = j === 0 ? rows : body.op("Where", [column(isSeen), rows, body.scalar(0)]);
      return body.op("Mul", [seen, tapAt(body, weight!, width, j)]);
    });
    const sum = terms.reduce((all, term) => body.op("Add", [all, term]));
    return [bias ? body.op("Add", [sum, bias]) : sum, written];
  },
  lower(e) {
    const types = [0, 1, 2, 3, 4].map((i) => e.type(e.input(i)!));
    const { tokens, channels, width, size, texts } = sizesOf(types);
    // The cache is read back, so it is written even if nobody wants it.
    const cache = e.used(1) ? e.output(1) : e.scratch(byteLength(types[2]!));
    const y = e.used(0) ? e.output(0) : e.scratch(byteLength(types[0]!));
    const inputs = [e.input(0), e.input(1), e.input(2), cache, e.input(3), e.input(4), e.input(5)];
    const operands = [...inputs, y, e.scratch(4 * channels * width)];
    for (const phase of [0, 1]) e.emit(Opcode.CachedConv, operands, [phase, tokens, channels, width, size, texts]);
  },
  inPlace: [[1, 2]],
});
