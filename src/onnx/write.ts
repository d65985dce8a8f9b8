import { useCounts } from "../graph/passes.ts";
import { type Attrs, type Graph, type InputRole, type Node, type OutputRole, type TensorType, typeOf } from "../graph/types.ts";
import { opOf } from "../ops/index.ts";
import { CONSTANT_INPUTS, encodeAttributes, encodeMetadata, encodeTensor, encodeValueInfo } from "./encode.ts";
import { needsCasts, PORTABLE, type Target, writtenType } from "./target.ts";
import { FunctionTable, REMAT_DOMAIN, REMAT_VERSION } from "./functions.ts";
import { encodeModel, IR_VERSION, type NodeProto, ONNX_OPSET, type TensorProto } from "./messages.ts";

/** Version of the metadata that `readModel` needs. */
export const FORMAT_VERSION = "1";

export const INPUT_NOTES: Readonly<Record<InputRole, string>> = {
  boundary: "the tensor that enters the segment",
  param: "a parameter, bound for each segment",
  batch: "data of the micro-batch, the same for all segments",
  segment: "data of this segment alone: its index, which keys dropout",
  tape: "a residual that the taped forward wrote",
  "output-grad": "the gradient of the segment's output",
  cache: "keys or values of earlier tokens of this segment",
  accumulator: "the running gradient of a parameter",
  carried: "a value that an earlier segment made beside its boundary",
  "carried-grad": "the sum of a carried value's gradients of the segments behind",
};

export const OUTPUT_NOTES: Readonly<Record<OutputRole, string>> = {
  boundary: "the tensor that leaves the segment",
  tape: "a residual for the backward",
  "input-grad": "the gradient of the segment's input",
  "param-grad": "the running gradient plus this micro-batch's",
  loss: "the scaled sum of the token losses",
  correct: "how many labels were the likeliest token",
  "token-losses": "the loss of each token, without a scale",
  "text-logits": "the logits of each text",
  logits: "the logits",
  state: "an updated state",
  carried: "a value for later segments, beside the boundary",
  "carried-grad": "the sum of a carried value's gradients, with this segment's",
};

/**
 * A graph as the bytes of an ONNX model: opset 23, parameters as inputs, each operator of the domain `remat` as a
 * model-local function in standard operators, so that anything that runs ONNX runs it. Metadata (`remat.*`) carries what
 * ONNX has no place for; `readModel` gives the same graph back. Equal graphs have equal bytes. `note` is the text that
 * a viewer shows for the model. What is written for another target than the default one, to be run, cannot be read back.
 */
export function writeModel(
  graph: Graph,
  note = `The graph ${graph.name} of a training step by Remat.`,
  target = PORTABLE,
): Uint8Array<ArrayBuffer> {
  const uses = useCounts(graph);
  const typeIn = (name: string): TensorType => {
    const type = typeOf(graph, name);
    return { ...type, dtype: writtenType(type.dtype, target) };
  };
  const functions = new FunctionTable(target);
  const constants = new ConstantTable(graph);
  const node = graph.nodes.flatMap((node) => withCasts(graph, encodeNode(graph, node, uses, functions, constants), target));
  const boundary = new Set([...graph.inputs, ...graph.outputs].map(({ name }) => name));
  const inner = graph.nodes.flatMap(({ outputs }) => outputs.filter((name) => !boundary.has(name) && uses.has(name)));

  return encodeModel({
    irVersion: IR_VERSION,
    producerName: "remat",
    docString: note,
    opsetImport: [
      { domain: "", version: ONNX_OPSET },
      { domain: REMAT_DOMAIN, version: REMAT_VERSION },
    ],
    metadataProps: encodeMetadata({ "remat.format": FORMAT_VERSION }),
    graph: {
      name: graph.name,
      node,
      initializer: constants.list(),
      input: graph.inputs.map(({ name, role, carries }) =>
        encodeValueInfo(name, typeIn(name), `${role}: ${INPUT_NOTES[role]}`, {
          "remat.role": role,
          ...(carries !== undefined && { "remat.carries": carries }),
        }),
      ),
      output: graph.outputs.map(({ name, role, updates, carries }) =>
        encodeValueInfo(name, typeIn(name), `${role}: ${OUTPUT_NOTES[role]}${updates ? `; updates ${updates}` : ""}`, {
          "remat.role": role,
          ...(updates !== undefined && { "remat.updates": updates }),
          ...(carries !== undefined && { "remat.carries": carries }),
        }),
      ),
      valueInfo: inner.map((name) => encodeValueInfo(name, typeIn(name))),
    },
    functions: functions.list(),
  });
}

function encodeNode(
  graph: Graph,
  node: Node,
  uses: ReadonlyMap<string, number>,
  functions: FunctionTable,
  constants: ConstantTable,
): NodeProto {
  const op = opOf(node);
  const constantInputs = CONSTANT_INPUTS[node.op] ?? [];
  const common = {
    name: node.outputs[0]!,
    opType: node.op,
    attribute: encodeAttributes(node.op, node.attrs, constantInputs),
  };
  if (op.body === "standard") {
    const input = [...node.inputs, ...constantInputs.map((name) => constants.ints(node.attrs, name))];
    return { ...common, input, output: node.outputs };
  }
  const used = node.outputs.map((name) => uses.has(name));
  if (!used.includes(true))
    throw new Error(`graph ${graph.name}: nothing uses the ${node.op} ${common.name}; prune the graph first`);
  const call = functions.functionOf({
    op,
    attrs: node.attrs,
    inputs: node.inputs.map((name) => (name === "" ? null : typeOf(graph, name))),
    outputs: node.outputs.map((name) => typeOf(graph, name)),
    used,
  });
  // An output that nobody uses is absent in the file; its name stays in the metadata.
  const unused = node.outputs.flatMap((name, i) => (used[i] ? [] : [[`remat.unused.${i}`, name] as const]));
  return {
    ...common,
    domain: REMAT_DOMAIN,
    ...(call.overload && { overload: call.overload }),
    input: node.inputs,
    output: node.outputs.map((name, i) => (used[i] ? name : "")).slice(0, call.output.length),
    metadataProps: encodeMetadata(Object.fromEntries(unused)),
  };
}

/** A standard operator that the target lacks in a half type, in f32 between casts. */
function withCasts(graph: Graph, node: NodeProto, target: Target): NodeProto[] {
  const typesOf = (names: readonly string[]) => names.map((name) => graph.types.get(name)?.dtype ?? null);
  const half = node.domain === undefined ? needsCasts(node.opType, typesOf(node.input), target) : null;
  if (half === null) return [node];
  const cast = (input: string, output: string, to: "f32" | typeof half): NodeProto => ({
    opType: "Cast",
    input: [input],
    output: [output],
    attribute: encodeAttributes("Cast", { to }),
  });
  const inner = (name: string) => `${node.output[0]} ${name} f32`;
  const halves = new Set(node.input.filter((name) => graph.types.get(name)?.dtype === half));
  return [
    ...[...halves].map((name) => cast(name, inner(name), "f32")),
    {
      ...node,
      input: node.input.map((name) => (halves.has(name) ? inner(name) : name)),
      output: node.output.map(inner),
    },
    ...node.output.map((name) => cast(inner(name), name, half)),
  ];
}

/** The 1-D i64 initializers that stand for attributes of the graph. */
class ConstantTable {
  private readonly byName = new Map<string, TensorProto>();

  constructor(private readonly graph: Graph) {}

  ints(attrs: Attrs, attr: string): string {
    const values = attrs[attr];
    if (!Array.isArray(values)) throw new Error(`graph ${this.graph.name}: expected a list of integers as attribute ${attr}`);
    let name = `${attr}[${values.join()}]`;
    while (this.graph.types.has(name)) name += "_";
    if (!this.byName.has(name)) this.byName.set(name, encodeTensor(name, { dtype: "i64", shape: [values.length] }, values));
    return name;
  }

  list(): TensorProto[] {
    return [...this.byName.values()];
  }
}
