import { type Attrs, type AttrValue, formatType, type TensorType } from "../graph/types.ts";
import { type DType } from "../base/dtype.ts";
import type { BodyBuilder, BodyConstant, OpDef } from "../ops/types.ts";
import { encodeAttributes, encodeTensor } from "./encode.ts";
import { type Integers, needsCasts, outputDtype, type Target } from "./target.ts";
import { ATTRIBUTE_TYPE, type AttributeProto, type FunctionProto, type NodeProto, ONNX_OPSET } from "./messages.ts";

/** The domain of the functions, and the version of their meaning. */
export const REMAT_DOMAIN = "remat";
export const REMAT_VERSION = 1;

/** One use of an operator: what a function body depends on. */
export interface Call {
  readonly op: OpDef;
  readonly attrs: Attrs;
  /** `null` is an absent optional input. */
  readonly inputs: readonly (TensorType | null)[];
  readonly outputs: readonly TensorType[];
  /** Which outputs anyone uses. What computes the others is left out of the body: ONNX Runtime would run it. */
  readonly used: readonly boolean[];
}

/**
 * The model-local functions of a file. A body is written for static types and attributes, so there is one function per
 * distinct call; those of one operator have the operator's name and differ in `overload` (empty, `2`, `3`, ...).
 */
export class FunctionTable {
  private readonly byCall = new Map<string, FunctionProto>();
  private readonly counts = new Map<string, number>();

  constructor(private readonly target: Target) {}

  /** The function of a call; equal calls share it. */
  functionOf(call: Call): FunctionProto {
    const { op, attrs, inputs, outputs, used } = call;
    const key = JSON.stringify([op.name, Object.entries(attrs).sort(), inputs, outputs, used]);
    let found = this.byCall.get(key);
    if (!found) {
      const count = (this.counts.get(op.name) ?? 0) + 1;
      this.counts.set(op.name, count);
      found = buildFunction(call, this.target, count === 1 ? "" : String(count));
      this.byCall.set(key, found);
    }
    return found;
  }

  list(): FunctionProto[] {
    return [...this.byCall.values()];
  }
}

function buildFunction({ op, attrs, inputs, outputs, used }: Call, target: Target, overload: string): FunctionProto {
  if (op.body === "standard") throw new Error(`${op.name}: a standard operator has no function body`);
  if (typeof op.body !== "function") throw new Error(`${op.name} has no ONNX function: ${op.body.noBody}`);
  const names = inputs.map((_, i) => `input${i}`);
  const body = new FunctionBody(op.name, new Map(names.map((name, i) => [name, inputs[i]?.dtype ?? null])), target);
  const results = op.body(
    body,
    inputs.map((type, i) => (type ? names[i]! : "")),
    inputs,
    attrs,
  );
  if (results.length !== outputs.length) {
    throw new Error(`${op.name}: its body returns ${results.length} values, but the operator has ${outputs.length} outputs`);
  }
  const { output, node } = body.finish(results, used.slice(0, used.lastIndexOf(true) + 1));
  const list = (types: readonly (TensorType | null)[]) => types.map((type) => (type ? formatType(type) : "absent")).join(", ");
  return {
    name: op.name,
    ...(overload && { overload }),
    domain: REMAT_DOMAIN,
    input: names,
    output,
    attribute: Object.keys(attrs).sort(),
    node,
    docString: `${op.name}(${list(inputs)}) -> ${list(outputs)}, written for these types and attributes alone`,
    opsetImport: [{ domain: "", version: ONNX_OPSET }],
  };
}

/** Collects the nodes of a body. Values are named after the operator that makes them. */
class FunctionBody implements BodyBuilder {
  private readonly nodes: NodeProto[] = [];
  private readonly counts = new Map<string, number>();
  private readonly constants = new Map<string, string>();
  /** The types of the values so far; an absent value has none. */
  private readonly dtypes: Map<string, DType | null>;

  constructor(
    private readonly owner: string,
    inputs: ReadonlyMap<string, DType | null>,
    private readonly target: Target,
  ) {
    this.dtypes = new Map([["", null], ...inputs]);
  }

  get integers(): Integers {
    return this.target.integers;
  }

  op(name: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrValue>> = {}): string {
    return this.ops(name, inputs, attrs, 1)[0]!;
  }

  ops(name: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrValue>>, outputs: number): string[] {
    const dtypes = inputs.map((input) => {
      const dtype = this.dtypes.get(input);
      if (dtype === undefined) throw new Error(`${this.owner}: its body gives ${name} an unknown value ${input}`);
      return dtype;
    });
    if (this.integers === "narrow") {
      if (name === "ConstantOfShape") return [this.op("Expand", [this.scalar(0), inputs[0]!])];
      // Positions, labels and numbers of tokens are exact in f32; random words, which are not, are not cut.
      if (name === "Slice" && dtypes[0] !== "f32") {
        const [data, ...places] = inputs;
        const slice = this.op("Slice", [this.op("Cast", [data!], { to: "f32" }), ...places], attrs);
        return [this.op("Cast", [slice], { to: dtypes[0]! })];
      }
    }
    const half = needsCasts(name, dtypes, this.target);
    if (half !== null) {
      const wide = inputs.map((input, i) => (dtypes[i] === half ? this.op("Cast", [input], { to: "f32" }) : input));
      return this.ops(name, wide, attrs, outputs).map((result) => this.op("Cast", [result], { to: half }));
    }
    const first = this.fresh(name);
    const results = Array.from({ length: outputs }, (_, i) => (i === 0 ? first : `${first}.${i}`));
    this.add(
      { opType: name, input: inputs, output: results, attribute: encodeAttributes(name, attrs) },
      results.map((_, i) => outputDtype(name, dtypes, attrs, i)),
    );
    return results;
  }

  constant({ dtype, shape, data }: BodyConstant): string {
    const key = `${dtype}[${shape.join()}]${data.map((value) => (Object.is(value, -0) ? "-0" : String(value))).join()}`;
    let name = this.constants.get(key);
    if (!name) {
      name = this.fresh("Constant");
      this.constants.set(key, name);
      this.addConstant(name, dtype, shape, data);
    }
    return name;
  }

  scalar(value: number, dtype: DType = "f32"): string {
    return this.constant({ dtype, shape: [], data: [value] });
  }

  ints(values: readonly number[]): string {
    return this.constant({ dtype: "i64", shape: [values.length], data: values });
  }

  /**
   * Gives the results their formal names and keeps the nodes that they depend on. An output that is not `wanted` is an
   * empty constant. A body may return an input, a constant or one value twice: those pass through an Identity.
   */
  finish(results: readonly string[], wanted: readonly boolean[]): { output: string[]; node: NodeProto[] } {
    const computed = new Set(this.nodes.filter((node) => node.opType !== "Constant").flatMap((node) => node.output));
    const formal = new Map<string, string>();
    const output = wanted.map((isWanted, i) => {
      const value = results[i]!;
      const name = `output${i}`;
      if (!isWanted) {
        this.addConstant(name, "f32", [], [0]);
      } else if (computed.has(value) && !formal.has(value)) {
        formal.set(value, name);
      } else {
        const dtype = this.dtypes.get(value);
        if (dtype === undefined) throw new Error(`${this.owner}: its body returns an unknown value ${value}`);
        this.add({ opType: "Identity", input: [value], output: [name] }, [dtype]);
      }
      return name;
    });

    const toFormal = (name: string) => formal.get(name) ?? name;
    const live = new Set(output);
    const renamed = this.nodes.map((node) => ({
      ...node,
      input: node.input.map(toFormal),
      output: node.output.map(toFormal),
    }));
    const node = renamed.reverse().filter(({ input, output }) => {
      if (!output.some((name) => live.has(name))) return false;
      for (const name of input) live.add(name);
      return true;
    });
    return { output, node: node.reverse() };
  }

  private add(node: NodeProto, dtypes: readonly (DType | null)[]): void {
    this.nodes.push(node);
    node.output.forEach((output, i) => this.dtypes.set(output, dtypes[i]!));
  }

  private addConstant(name: string, dtype: DType, shape: readonly number[], data: readonly (number | bigint)[]): void {
    const t = encodeTensor("", { dtype, shape }, data);
    const value: AttributeProto = { name: "value", type: ATTRIBUTE_TYPE.TENSOR, t };
    this.add({ opType: "Constant", input: [], output: [name], attribute: [value] }, [dtype]);
  }

  private fresh(op: string): string {
    const count = (this.counts.get(op) ?? 0) + 1;
    this.counts.set(op, count);
    return `${op}_${count}`;
  }
}
