import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, type TensorType } from "../graph/types.ts";
import { checkDelta, deltaScalars, type GatedDeltaAttrs, sizesOf } from "./gated-delta.ts";
import { CHUNK, type DeltaSizes, goOnBody } from "./gated-delta-body.ts";
import { expectCache, expectPlaces, keptRows, withRoom } from "./rolling-conv.ts";
import { defineOp, notDifferentiable } from "./types.ts";

type Types = readonly (TensorType | null | undefined)[];

const textsOf = (types: Types): number => types[7]?.shape[0] ?? 1;

const stateSize = ({ heads, keyDim, valueDim }: DeltaSizes): number => heads * keyDim * valueDim;

/**
 * `CachedGatedDelta(qkv, a, b, aLog, dtBias, state, starts, position) -> out, state'`: `GatedDelta` of new rows that go on with the states of their
 * texts, f32[texts, room], of which a text has the first heads keyDim valueDim. Of one text row i is at position + i, of as many texts as rows at position[i] of text i; at 0 a text begins, and its
 * state is 0. A row whose start is its own place and not 0 fills up the program: its result is 0, and no state has it.
 */
export const CachedGatedDelta = defineOp<GatedDeltaAttrs>({
  name: "CachedGatedDelta",
  domain: "remat",
  cost: "compute",
  infer(inputs, attrs) {
    const [qkv, a, b, aLog, dtBias, state, starts, position] = inputs;
    const sizes = checkDelta("CachedGatedDelta", [qkv, a, b, aLog, dtBias, starts], attrs);
    const { tokens, heads, valueDim } = sizes;
    expectPlaces("CachedGatedDelta", tokens, starts, position);
    expectCache("CachedGatedDelta", state, textsOf(inputs), stateSize(sizes));
    return [{ dtype: "f32", shape: [tokens, heads * valueDim] }, state!];
  },
  gradient: notDifferentiable("it overwrites its state; training computes whole texts (GatedDelta)"),
  body(body, inputs, types, attrs) {
    const texts = textsOf(types);
    const { tokens, ...sizes } = sizesOf(types, attrs);
    const { kept } = keptRows(body, inputs[6]!, inputs[7]!, tokens, texts);
    const rows = texts > 1 ? 1 : Math.min(CHUNK, tokens);
    const begins = body.op("Equal", [inputs[7]!, body.scalar(0, "i32")]);
    const isNew = body.op("Reshape", [begins, body.ints([texts, 1, 1, 1])]);
    const chunked = { ...sizes, tokens, rows, chunks: Math.ceil(tokens / rows) };
    const { used, whole } = withRoom(body, inputs[5]!, types[5]!.shape[1]!, stateSize(chunked));
    const [out, next] = goOnBody(body, inputs.with(5, used), chunked, { kept, isNew, texts }) as [string, string];
    return [out, whole(next)];
  },
  lower(e) {
    const types = [0, 1, 2, 3, 4, 5, 6, 7].map((i) => e.type(e.input(i)!));
    const sizes = sizesOf(types, e.attrs);
    const outputTypes = [e.type(e.output(0)), types[5]!];
    const outputs = [0, 1].map((i) => (e.used(i) ? e.output(i) : e.scratch(byteLength(outputTypes[i]!))));
    const operands = [...[0, 1, 2, 3, 4, 5, 6, 7].map((i) => e.input(i)), ...outputs];
    e.emit(Opcode.CachedGatedDelta, operands, [...deltaScalars(sizes), textsOf(types), types[5]!.shape[1]!]);
  },
  inPlace: [[1, 5]],
});
