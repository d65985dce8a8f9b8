import { encodeAttributes, ONNX_DTYPE } from "../onnx/encode.ts";
import { encodeModel, IR_VERSION, ONNX_OPSET, type ValueInfoProto } from "../onnx/messages.ts";

export interface SingleNode {
  readonly op: string;
  /** Names and numbers of dimensions of the f32 inputs; the output is "Y", a matrix. */
  readonly inputs: readonly (readonly [name: string, rank: number])[];
  readonly attrs: Readonly<Record<string, number>>;
}

/** The bytes of an ONNX model of one node, for any sizes. */
export function nodeModel({ op, inputs, attrs }: SingleNode): Uint8Array {
  const matrix = (name: string, rank: number): ValueInfoProto => {
    const dim = Array.from({ length: rank }, (_, axis) => ({ dimParam: `${name}${axis}` }));
    return { name, type: { tensorType: { elemType: ONNX_DTYPE.f32, shape: { dim } } } };
  };
  return encodeModel({
    irVersion: IR_VERSION,
    producerName: "remat",
    opsetImport: [{ domain: "", version: ONNX_OPSET }],
    graph: {
      name: op,
      node: [{ opType: op, input: inputs.map(([name]) => name), output: ["Y"], attribute: encodeAttributes(op, attrs) }],
      input: inputs.map(([name, rank]) => matrix(name, rank)),
      output: [matrix("Y", 2)],
    },
  });
}
