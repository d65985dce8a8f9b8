import { writeAtomic } from "../base/files/files.ts";
import { UserError } from "../base/errors.ts";
import { toFloat32 } from "../base/float16.ts";
import { byteLength } from "../graph/types.ts";
import { expectTensor, readBytes, tensorBytes, type TensorSource } from "../hf/weights/safetensors.ts";
import { ONNX_DTYPE } from "../onnx/encode.ts";
import { encodeModelAround, type ValueInfoProto, type WeightProto } from "../onnx/messages.ts";
import type { OpenModel, OpenTensor } from "./encoder.ts";

/** The first version of the standard operators with all that is used here (Gelu); runtimes for browsers know it. */
const OPSET = 20;

/** The version of the file format that goes with it. */
const IR_VERSION = 9;

/** Bytes of a file that protobuf can hold. */
const MOST_BYTES = 2 ** 31 - 1;

/**
 * Writes an ONNX file with its weights inside, as f32, one of which is in memory at a time. The file appears whole or not at all.
 * @throws {UserError} weights that are missing or do not fit, more than 2 GiB of them, a full disk
 */
export function writeOpenModel(path: string, { graph, inputs, outputs }: OpenModel, source: TensorSource): void {
  const weights = Array.from(graph.weights, ([name, shape]): WeightProto => {
    const entry = expectTensor(source, name, shape);
    const pieces = function* (): Generator<Uint8Array> {
      if (entry.dtype === "f32") return yield* tensorBytes(source, entry);
      const values = toFloat32(readBytes(source, entry), entry.dtype as "bf16" | "f16");
      yield new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
    };
    return { name, dims: shape, dataType: ONNX_DTYPE.f32, bytes: byteLength({ dtype: "f32", shape }), pieces };
  });
  const total = weights.reduce((sum, { bytes }) => sum + bytes, 0);
  if (total > MOST_BYTES - 2 ** 24)
    throw new UserError(
      `${path}: the weights have ${(total / 2 ** 30).toFixed(2)} GiB as float32, and an ONNX file of one piece holds less than 2; take a smaller model`,
    );
  const model = {
    irVersion: IR_VERSION,
    producerName: "remat",
    opsetImport: [{ domain: "", version: OPSET }],
    graph: {
      name: "encoder",
      node: graph.nodes,
      initializer: [...graph.constants.values()],
      input: inputs.map(valueInfo),
      output: outputs.map(valueInfo),
    },
  };
  writeAtomic(path, encodeModelAround(model, weights));
}

function valueInfo({ name, dtype, sizes }: OpenTensor): ValueInfoProto {
  const dim = sizes.map((size) => (typeof size === "string" ? { dimParam: size } : { dimValue: size }));
  return { name, type: { tensorType: { elemType: ONNX_DTYPE[dtype], shape: { dim } } } };
}
