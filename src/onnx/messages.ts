import { BinaryWriter, WireType } from "@bufbuild/protobuf/wire";

/**
 * The messages of an ONNX file, as far as Remat writes them, with `onnx.proto`'s names and numbers, and their bytes. `gen/` has all of
 * ONNX for who reads; its descriptors, and what interprets them, would take a run 30 ms and 10 MB before the first byte.
 */

/** The first version of ONNX's file format with opset 23 (and with overloaded functions and metadata on every part). */
export const IR_VERSION = 11;
/** The standard operators' version: from 24 on ONNX Runtime lists no CUDA kernels for Cast, Reshape and Transpose. */
export const ONNX_OPSET = 23;

/** `AttributeProto.AttributeType`: which field of an attribute holds its value. */
export const ATTRIBUTE_TYPE = { FLOAT: 1, INT: 2, STRING: 3, TENSOR: 4, FLOATS: 6, INTS: 7 } as const;

export interface AttributeProto {
  readonly name: string;
  readonly f?: number;
  readonly i?: number;
  readonly s?: string;
  readonly t?: TensorProto;
  readonly floats?: readonly number[];
  readonly ints?: readonly number[];
  readonly type: (typeof ATTRIBUTE_TYPE)[keyof typeof ATTRIBUTE_TYPE];
}

export interface TensorProto {
  readonly dims: readonly number[];
  /** A number of `TensorProto.DataType`. */
  readonly dataType: number;
  readonly name: string;
  readonly rawData: Uint8Array;
}

export interface NodeProto {
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly name?: string;
  readonly opType: string;
  readonly attribute?: readonly AttributeProto[];
  /** The domain of the operator; absent for the standard ones. */
  readonly domain?: string;
  readonly overload?: string;
  readonly metadataProps?: readonly StringStringEntryProto[];
}

export interface StringStringEntryProto {
  readonly key: string;
  readonly value: string;
}

export interface ValueInfoProto {
  readonly name: string;
  readonly type: { readonly tensorType: TensorTypeProto };
  readonly docString?: string;
  readonly metadataProps?: readonly StringStringEntryProto[];
}

interface TensorTypeProto {
  /** A number of `TensorProto.DataType`. */
  readonly elemType: number;
  readonly shape: { readonly dim: readonly DimensionProto[] };
}

/** A size, or the name of one that is known at run time. */
interface DimensionProto {
  readonly dimValue?: number;
  readonly dimParam?: string;
}

export interface FunctionProto {
  readonly name: string;
  readonly input: readonly string[];
  readonly output: readonly string[];
  readonly attribute: readonly string[];
  readonly node: readonly NodeProto[];
  readonly docString: string;
  readonly opsetImport: readonly OperatorSetIdProto[];
  readonly domain: string;
  readonly overload?: string;
}

interface OperatorSetIdProto {
  readonly domain: string;
  readonly version: number;
}

interface GraphProto {
  readonly node: readonly NodeProto[];
  readonly name: string;
  readonly initializer?: readonly TensorProto[];
  readonly input: readonly ValueInfoProto[];
  readonly output: readonly ValueInfoProto[];
  readonly valueInfo?: readonly ValueInfoProto[];
}

export interface ModelProto {
  readonly irVersion: number;
  readonly producerName: string;
  readonly docString?: string;
  readonly graph: GraphProto;
  readonly opsetImport: readonly OperatorSetIdProto[];
  readonly metadataProps?: readonly StringStringEntryProto[];
  readonly functions?: readonly FunctionProto[];
}

/** The bytes of a model, the fields of each message in the order of their numbers. */
export function encodeModel(model: ModelProto): Uint8Array<ArrayBuffer> {
  const writer = new BinaryWriter();
  putFields(writer, MODEL, model);
  return writer.finish();
}

/** A tensor whose bytes come piece by piece. */
export interface WeightProto extends Omit<TensorProto, "rawData"> {
  readonly bytes: number;
  pieces(): Iterable<Uint8Array>;
}

/**
 * The bytes of a model with weights that never lie in memory together. A message is known by its length, which comes first: those of the weights, and of the graph
 * around them, are counted before anything is written.
 */
export function* encodeModelAround(model: ModelProto, weights: readonly WeightProto[]): Generator<Uint8Array> {
  const { graph, ...rest } = model;
  const around = new BinaryWriter();
  putFields(around, GRAPH, graph);
  const graphBytes = around.finish();
  const heads = weights.map(({ dims, dataType, name, bytes: size }) => {
    const inner = new BinaryWriter();
    putFields(inner, TENSOR_HEAD, { dims, dataType, name });
    inner.tag(RAW_DATA, WireType.LengthDelimited).uint32(size);
    const own = inner.finish();
    const head = new BinaryWriter().tag(INITIALIZER, WireType.LengthDelimited).uint32(own.length + size);
    return Buffer.concat([head.finish(), own]);
  });
  const total = weights.reduce((sum, { bytes: size }, i) => sum + heads[i]!.length + size, graphBytes.length);
  const begin = new BinaryWriter();
  putFields(begin, { ...MODEL, graph: () => {} }, { ...rest, graph });
  yield begin.tag(MODEL_GRAPH, WireType.LengthDelimited).uint32(total).finish();
  yield graphBytes;
  for (const [i, { pieces }] of weights.entries()) {
    yield heads[i]!;
    yield* pieces();
  }
}

/** Numbers of the fields that are written by hand there. */
const [RAW_DATA, INITIALIZER, MODEL_GRAPH] = [9, 5, 7];

/** Writes a field: its tag, and a value. */
type Put<V> = (writer: BinaryWriter, value: V) => void;

/** The fields of a message in the order of their numbers; one that has no row here does not compile. */
type Fields<T> = { readonly [K in keyof T]-?: Put<NonNullable<T[K]>> };

function putFields<T>(writer: BinaryWriter, fields: Fields<T>, message: T): void {
  for (const name in fields) {
    const value = message[name];
    if (value !== undefined && value !== null) fields[name](writer, value);
  }
}

const text =
  (field: number): Put<string> =>
  (writer, value) =>
    void writer.tag(field, WireType.LengthDelimited).string(value);

const bytes =
  (field: number): Put<Uint8Array> =>
  (writer, value) =>
    void writer.tag(field, WireType.LengthDelimited).bytes(value);

const integer =
  (field: number): Put<number> =>
  (writer, value) =>
    void writer.tag(field, WireType.Varint).int64(value);

const float =
  (field: number): Put<number> =>
  (writer, value) =>
    void writer.tag(field, WireType.Bit32).float(value);

const message =
  <T>(field: number, fields: Fields<T>): Put<T> =>
  (writer, value) => {
    writer.tag(field, WireType.LengthDelimited).fork();
    putFields(writer, fields, value);
    writer.join();
  };

/** A repeated field: in `onnx.proto`, version 2 of the language, each value has a tag of its own. */
const each =
  <V>(put: Put<V>): Put<readonly V[]> =>
  (writer, values) => {
    for (const value of values) put(writer, value);
  };

const ENTRY: Fields<StringStringEntryProto> = { key: text(1), value: text(2) };

const OPERATOR_SET: Fields<OperatorSetIdProto> = { domain: text(1), version: integer(2) };

const TENSOR_HEAD: Fields<Omit<TensorProto, "rawData">> = { dims: each(integer(1)), dataType: integer(2), name: text(8) };

const TENSOR: Fields<TensorProto> = { ...TENSOR_HEAD, rawData: bytes(9) };

const ATTRIBUTE: Fields<AttributeProto> = {
  name: text(1),
  f: float(2),
  i: integer(3),
  s: text(4),
  t: message(5, TENSOR),
  floats: each(float(7)),
  ints: each(integer(8)),
  type: integer(20),
};

const NODE: Fields<NodeProto> = {
  input: each(text(1)),
  output: each(text(2)),
  name: text(3),
  opType: text(4),
  attribute: each(message(5, ATTRIBUTE)),
  domain: text(7),
  overload: text(8),
  metadataProps: each(message(9, ENTRY)),
};

const DIMENSION: Fields<DimensionProto> = { dimValue: integer(1), dimParam: text(2) };

const TENSOR_TYPE: Fields<TensorTypeProto> = { elemType: integer(1), shape: message(2, { dim: each(message(1, DIMENSION)) }) };

const VALUE_INFO: Fields<ValueInfoProto> = {
  name: text(1),
  type: message(2, { tensorType: message(1, TENSOR_TYPE) }),
  docString: text(3),
  metadataProps: each(message(4, ENTRY)),
};

const GRAPH: Fields<GraphProto> = {
  node: each(message(1, NODE)),
  name: text(2),
  initializer: each(message(5, TENSOR)),
  input: each(message(11, VALUE_INFO)),
  output: each(message(12, VALUE_INFO)),
  valueInfo: each(message(13, VALUE_INFO)),
};

const FUNCTION: Fields<FunctionProto> = {
  name: text(1),
  input: each(text(4)),
  output: each(text(5)),
  attribute: each(text(6)),
  node: each(message(7, NODE)),
  docString: text(8),
  opsetImport: each(message(9, OPERATOR_SET)),
  domain: text(10),
  overload: text(13),
};

const MODEL: Fields<ModelProto> = {
  irVersion: integer(1),
  producerName: text(2),
  docString: text(6),
  graph: message(7, GRAPH),
  opsetImport: each(message(8, OPERATOR_SET)),
  metadataProps: each(message(14, ENTRY)),
  functions: each(message(25, FUNCTION)),
};
