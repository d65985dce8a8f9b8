/** As ONNX_OPSET and IR_VERSION in src/onnx, which would load a whole protobuf library for one node. */
const OPSET = 23;
const IR_VERSION = 11;

export interface SingleNode {
  readonly op: string;
  /** Names and numbers of dimensions of the f32 inputs; the output is "Y", a matrix. */
  readonly inputs: readonly (readonly [name: string, rank: number])[];
  /** Integers; `alpha` is a float. */
  readonly attrs: Readonly<Record<string, number>>;
}

/** The bytes of an ONNX model of one node, for any sizes. */
export function nodeModel({ op, inputs, attrs }: SingleNode): Uint8Array {
  // NodeProto: inputs 1, outputs 2, op_type 4, attributes 5.
  const node = message(
    1,
    ...inputs.map(([name]) => text(1, name)),
    text(2, "Y"),
    text(4, op),
    ...Object.entries(attrs).map(([name, value]) => attribute(name, value)),
  );
  const graph = message(7, node, text(2, op), ...inputs.map(([name, rank]) => valueInfo(11, name, rank)), valueInfo(12, "Y", 2));
  return Uint8Array.from([...int(1, IR_VERSION), ...graph, ...message(8, int(2, OPSET))]);
}

/** AttributeProto: name 1, f 2 or i 3, type 20 (FLOAT 1, INT 2). */
function attribute(name: string, value: number): number[] {
  return name === "alpha"
    ? message(5, text(1, name), float(2, value), int(20, 1))
    : message(5, text(1, name), int(3, value), int(20, 2));
}

/** ValueInfoProto: name 1, type 2 { tensor_type 1 { elem_type 1, shape 2 { dim 1 { dim_param 2 } } } }. */
function valueInfo(field: number, name: string, rank: number): number[] {
  const dims = Array.from({ length: rank }, (_, axis) => message(1, text(2, `${name}${axis}`)));
  return message(field, text(1, name), message(2, message(1, int(1, 1), message(2, ...dims))));
}

// The wire format, https://protobuf.dev/programming-guides/encoding/: (field << 3 | type), then the value.
function int(field: number, value: number): number[] {
  return [...varint(field << 3), ...varint(value)];
}

function float(field: number, value: number): number[] {
  return [...varint((field << 3) | 5), ...new Uint8Array(Float32Array.of(value).buffer)];
}

function message(field: number, ...parts: readonly number[][]): number[] {
  const body = parts.flat();
  return [...varint((field << 3) | 2), ...varint(body.length), ...body];
}

function text(field: number, value: string): number[] {
  return message(field, [...new TextEncoder().encode(value)]);
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value & 127) | 128, ...varint(value >>> 7)];
}
