import { fromBinary } from "@bufbuild/protobuf";
import { messageOf, UserError } from "../base/errors.ts";
import {
  type Attrs,
  type AttrValue,
  byteLength,
  formatType,
  type Graph,
  type GraphInput,
  type GraphOutput,
  type InputRole,
  type Node,
  type OutputRole,
  sameType,
  type TensorType,
} from "../graph/types.ts";
import { opOf, OPS } from "../ops/index.ts";
import { CONSTANT_INPUTS, dtypeOf } from "./encode.ts";
import { REMAT_DOMAIN, REMAT_VERSION } from "./functions.ts";
import {
  type AttributeProto,
  AttributeProto_AttributeType as AttributeType,
  type FunctionProto,
  type ModelProto,
  ModelProtoSchema,
  type NodeProto,
  type StringStringEntryProto,
  type TensorProto,
  TensorProto_DataType as DataType,
  type ValueInfoProto,
} from "./gen/onnx_pb.ts";
import { ONNX_OPSET } from "./messages.ts";
import { FORMAT_VERSION, INPUT_NOTES, OUTPUT_NOTES } from "./write.ts";

/**
 * The graph in a file that `writeModel` made: the inverse of it, except that float attributes come back as the shortest
 * decimals of their f32 values. `file` is the name for error messages.
 * @throws {UserError} when the bytes are damaged, or are an ONNX model of another program
 */
export function readModel(bytes: Uint8Array, file: string): Graph {
  try {
    return decodeModel(fromBinary(ModelProtoSchema, bytes, { readUnknownFields: false }));
  } catch (error) {
    throw new UserError(
      `${file} is not a segment model that can be read: ${messageOf(error)}; ` +
        `expected a complete ONNX file written by this version of Remat (run the training command again to write it)`,
    );
  }
}

/** Why a file is refused; `readModel` adds the file's name. */
const refuse = (why: string): never => {
  throw new Error(why);
};

function decodeModel(model: ModelProto): Graph {
  const format = metadata(model.metadataProps)["remat.format"];
  if (!model.graph) return refuse("it holds no graph");
  if (format === undefined) return refuse("it was not written by Remat (there is no remat.format)");
  if (format !== FORMAT_VERSION) return refuse(`its format is version ${JSON.stringify(format)}, not ${FORMAT_VERSION}`);
  for (const [domain, version] of [["", ONNX_OPSET] as const, [REMAT_DOMAIN, REMAT_VERSION] as const]) {
    if (!model.opsetImport.some((opset) => opset.domain === domain && opset.version === BigInt(version))) {
      return refuse(`it does not use version ${version} of the operators ${JSON.stringify(domain)}`);
    }
  }
  const { graph } = model;
  const types = new Map<string, TensorType>();
  const define = (name: string, type: TensorType): void => {
    if (name === "" || types.has(name)) refuse(`the value ${JSON.stringify(name)} is defined twice or has no name`);
    types.set(name, type);
  };

  const inputs = graph.input.map((info): GraphInput => {
    define(info.name, decodeType(info));
    const role = decodeRole<InputRole>(info, INPUT_NOTES);
    return { name: info.name, role, ...carriesOf(info, role) };
  });
  const constants = new Map(graph.initializer.map((tensor) => [tensor.name, tensor]));
  const declared = new Map([...graph.valueInfo, ...graph.output].map((info) => [info.name, info]));
  const functions = new Map(model.functions.map((proto) => [functionKey(proto.domain, proto.name, proto.overload), proto]));
  const nodes = graph.node.map((proto) => {
    if (proto.domain === REMAT_DOMAIN) checkCall(proto, functions.get(functionKey(proto.domain, proto.opType, proto.overload)));
    const { node, outputTypes } = decodeNode(proto, types, constants);
    node.outputs.forEach((name, i) => {
      const info = declared.get(name);
      // What the file leaves out because nobody uses it has no declared type either.
      if (!info && (proto.output[i] ?? "") === "") return define(name, outputTypes[i]!);
      if (!info) return refuse(`the value ${JSON.stringify(name)} has no type`);
      const type = decodeType(info);
      if (!sameType(type, outputTypes[i]!)) {
        refuse(
          `${node.op} makes ${JSON.stringify(name)} ${formatType(outputTypes[i]!)}, but it is declared as ${formatType(type)}`,
        );
      }
      define(name, type);
    });
    return node;
  });
  const outputs = graph.output.map((info): GraphOutput => {
    const type = types.get(info.name);
    if (!type) return refuse(`nothing computes the output ${JSON.stringify(info.name)}`);
    if (!sameType(type, decodeType(info))) return refuse(`the output ${JSON.stringify(info.name)} has two types`);
    const role = decodeRole<OutputRole>(info, OUTPUT_NOTES);
    const updates = metadata(info.metadataProps)["remat.updates"];
    if (updates === undefined) return { name: info.name, role, ...carriesOf(info, role) };
    const target = inputs.some((input) => input.name === updates) && types.get(updates)!;
    if (!target || !sameType(target, type))
      refuse(`${JSON.stringify(info.name)} updates ${JSON.stringify(updates)}, no such input`);
    return { name: info.name, role, updates };
  });
  return { name: graph.name, inputs, outputs, nodes, types };
}

function functionKey(...id: [domain: string, name: string, overload: string]): string {
  return JSON.stringify(id);
}

function checkCall(proto: NodeProto, called: FunctionProto | undefined): void {
  if (!called) return refuse(`there is no function for the operator ${proto.opType}`);
  const given = proto.attribute.map((attribute) => attribute.name).sort();
  if (called.input.length !== proto.input.length || called.attribute.toSorted().join() !== given.join()) {
    refuse(`a call of ${proto.opType} and its function differ in inputs or attributes`);
  }
}

function decodeNode(
  proto: NodeProto,
  types: ReadonlyMap<string, TensorType>,
  constants: ReadonlyMap<string, TensorProto>,
): { node: Node; outputTypes: TensorType[] } {
  const op = Object.hasOwn(OPS, proto.opType) ? opOf({ op: proto.opType }) : null;
  if (op?.domain !== proto.domain) {
    return refuse(`it uses the operator ${JSON.stringify(proto.domain)} ${JSON.stringify(proto.opType)}, which is unknown here`);
  }
  const constantInputs = CONSTANT_INPUTS[op.name] ?? [];
  const count = proto.input.length - constantInputs.length;
  const constantOf = (name: string, i: number) =>
    constants.get(proto.input[count + i] ?? "") ?? refuse(`${op.name} has no constant ${name}`);
  const attrs: Attrs = Object.fromEntries<AttrValue>([
    ...proto.attribute.map((attribute) => [attribute.name, decodeAttribute(op.name, attribute)] as const),
    ...constantInputs.map((name, i) => [name, decodeInts(constantOf(name, i))] as const),
  ]);

  const inputs = proto.input.slice(0, Math.max(count, 0));
  const inputTypes = inputs.map((name) => {
    if (name === "") return null;
    return types.get(name) ?? refuse(`${op.name} reads ${JSON.stringify(name)}, which nothing computes before it`);
  });
  const outputTypes = op.infer(inputTypes, attrs);
  const unused = metadata(proto.metadataProps);
  const outputs = outputTypes.map((_, i) => {
    const name = proto.output[i] ?? "";
    return name !== "" ? name : (unused[`remat.unused.${i}`] ?? refuse(`output ${i} of a ${op.name} has no name`));
  });
  if (proto.output.length > outputs.length) refuse(`${op.name} has ${outputs.length} outputs, not ${proto.output.length}`);
  return { node: { op: op.name, inputs, outputs, attrs }, outputTypes };
}

function decodeAttribute(op: string, attribute: AttributeProto): AttrValue {
  switch (attribute.type) {
    case AttributeType.FLOAT:
      return shortest(attribute.f);
    case AttributeType.INT:
      return toInteger(attribute.i);
    case AttributeType.STRING:
      return new TextDecoder("utf-8", { fatal: true }).decode(attribute.s);
    case AttributeType.FLOATS:
      return attribute.floats.map(shortest);
    case AttributeType.INTS:
      return attribute.ints.map(toInteger);
    default:
      return refuse(`attribute ${JSON.stringify(attribute.name)} of ${op} is of a kind that is not used here`);
  }
}

/** The shortest decimal of an f32: 1e-6 instead of 0.0000009999999974752427. */
function shortest(value: number): number {
  for (let digits = 1; digits < 9; digits++) {
    const decimal = Number(value.toPrecision(digits));
    if (Math.fround(decimal) === value) return decimal;
  }
  return value;
}

function toInteger(value: bigint): number {
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : refuse(`the integer ${value} is out of range`);
}

/** A 1-D i64 constant. */
function decodeInts(tensor: TensorProto): number[] {
  const { dims, rawData } = tensor;
  if (tensor.dataType !== DataType.INT64 || dims.length !== 1 || BigInt(rawData.length) !== 8n * dims[0]!) {
    return refuse(`expected the constant ${JSON.stringify(tensor.name)} to be a list of 64-bit integers`);
  }
  const view = new DataView(rawData.buffer, rawData.byteOffset, rawData.byteLength);
  return Array.from({ length: rawData.length / 8 }, (_, i) => toInteger(view.getBigInt64(8 * i, true)));
}

function decodeType({ name, type }: ValueInfoProto): TensorType {
  const tensor = type?.value.case === "tensorType" ? type.value.value : refuse(`${JSON.stringify(name)} is not a tensor`);
  const dtype = dtypeOf(tensor.elemType) ?? refuse(`${JSON.stringify(name)} has the unknown element type ${tensor.elemType}`);
  const shape = (tensor.shape?.dim ?? []).map(({ value }) =>
    value.case === "dimValue" && value.value >= 0n
      ? toInteger(value.value)
      : refuse(`${JSON.stringify(name)} has no static shape`),
  );
  const decoded = { dtype, shape };
  return Number.isSafeInteger(byteLength(decoded))
    ? decoded
    : refuse(`${JSON.stringify(name)} is too large: ${formatType(decoded)}`);
}

/** The segment's own name of a carried value. */
function carriesOf({ name, metadataProps }: ValueInfoProto, role: InputRole | OutputRole): { readonly carries?: string } {
  if (role !== "carried") return {};
  const carries = metadata(metadataProps)["remat.carries"];
  return carries === undefined ? refuse(`${JSON.stringify(name)} has no remat.carries`) : { carries };
}

function decodeRole<Role extends string>({ name, metadataProps }: ValueInfoProto, roles: Readonly<Record<Role, string>>): Role {
  const role = metadata(metadataProps)["remat.role"];
  if (role === undefined || !Object.hasOwn(roles, role)) {
    return refuse(`${JSON.stringify(name)} has no known remat.role (${JSON.stringify(role)})`);
  }
  return role as Role;
}

function metadata(entries: readonly StringStringEntryProto[]): Record<string, string> {
  return Object.fromEntries(entries.map(({ key, value }) => [key, value]));
}
