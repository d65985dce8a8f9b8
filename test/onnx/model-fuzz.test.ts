import { expect, setDefaultTimeout, test } from "bun:test";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { ModelProtoSchema } from "../../src/onnx/gen/onnx_pb.ts";
import { readModel } from "../../src/onnx/read.ts";
import { writeModel } from "../../src/onnx/write.ts";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import type { Random } from "../../src/base/random.ts";
import { fuzz, INPUTS, mutateBytes } from "../support/fuzz.ts";
import { opGraph } from "../support/ops.ts";
import { SAMPLES } from "./samples.ts";

setDefaultTimeout(120_000);

/** A segment model of each operator, of small tensors. */
const seeds = (Object.keys(OPS) as OpName[])
  .filter((name) => SAMPLES[name].length > 0)
  .map((name) => {
    const { attrs, inputs } = SAMPLES[name][0]!;
    const { builder, outputs } = opGraph({ op: opOf({ op: name }), inputs, attrs });
    for (const output of outputs) builder.output({ name: output, role: "boundary" });
    return writeModel(builder.build());
  });
const models = seeds.map((seed) => fromBinary(ModelProtoSchema, seed));

const NUMBERS = [0, -1, 1, 7, 99, 2 ** 31 - 1, NaN];
const INTEGERS = [0n, -1n, 1n, 3n, 2n ** 40n, 2n ** 63n - 1n, -(2n ** 63n)];
const TEXTS = ["", "x", "../../etc/passwd", "__proto__", "constructor", "Loop", "remat", "y", "location"];

type Fields = Record<string, unknown>;

/** Changes one field somewhere in a message: another number, text or bytes, an entry doubled or missing, no message. */
function changeField(random: Random, message: Fields): void {
  const keys = Object.keys(message).filter((key) => !key.startsWith("$"));
  const key = keys[random.below(keys.length)];
  if (key === undefined) return;
  const value = message[key];
  if (Array.isArray(value) && value.length > 0) {
    const at = random.below(value.length);
    const entry = value[at] as unknown;
    const kind = random.below(8);
    if (kind === 0) value.splice(at, 1);
    else if (kind === 1) value.push(entry);
    else if (typeof entry === "object" && entry !== null && !(entry instanceof Uint8Array)) changeField(random, entry as Fields);
    else value[at] = other(random, entry);
  } else if (typeof value === "object" && value !== null && !(value instanceof Uint8Array) && !Array.isArray(value)) {
    if (random.below(8) === 0) delete message[key];
    else changeField(random, value as Fields);
  } else message[key] = other(random, value);
}

function other(random: Random, value: unknown): unknown {
  if (typeof value === "number") return NUMBERS[random.below(NUMBERS.length)];
  if (typeof value === "bigint") return INTEGERS[random.below(INTEGERS.length)];
  if (typeof value === "string") return TEXTS[random.below(TEXTS.length)];
  if (value instanceof Uint8Array) return Uint8Array.from({ length: random.below(24) }, () => random.below(256));
  return value;
}

/** Says of an initializer that its data are in another file. */
function moveOutside(random: Random, model: Fields): void {
  const tensors = (model.graph as { initializer?: Fields[] } | undefined)?.initializer ?? [];
  const tensor = tensors[random.below(tensors.length)];
  if (!tensor) return;
  tensor.dataLocation = 1;
  tensor.rawData = new Uint8Array(0);
  tensor.externalData = [{ $typeName: "onnx.StringStringEntryProto", key: "location", value: "../../../../etc/passwd" }];
}

function input(random: Random): Uint8Array {
  const i = random.below(seeds.length);
  if (random.below(2) === 0) return mutateBytes(random, seeds[i]!, seeds);
  const model = structuredClone(models[i]!) as unknown as Fields;
  for (let left = 1 + random.below(3); left > 0; left--) changeField(random, model);
  if (random.below(4) === 0) moveOutside(random, model);
  try {
    return toBinary(ModelProtoSchema, model as never);
  } catch {
    // A number that its field cannot hold.
    return mutateBytes(random, seeds[i]!, seeds);
  }
}

test(`${INPUTS} mutated ONNX files, bytes and fields: a graph or a UserError`, async () => {
  const counts = await fuzz("onnx", input, (bytes) => void readModel(bytes, "block.onnx"));
  expect(Math.min(counts.read, counts.refused)).toBeGreaterThan(0.1 * INPUTS);
});
