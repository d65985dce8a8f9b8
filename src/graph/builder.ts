import {
  type Attrs,
  type Graph,
  type GraphInput,
  type GraphOutput,
  type InputRole,
  type Node,
  type TensorType,
  typeOf,
} from "./types.ts";

/** Describes what the builder needs of an operator; `ops/` adds the gradient rule, the ONNX body and the lowering. */
export interface OpSignature<A extends Attrs = Attrs> {
  readonly name: string;
  /** Types of the outputs. Throws when the inputs do not fit the operator. `null` is an absent optional input. */
  infer(inputs: readonly (TensorType | null)[], attrs: A): TensorType[];
}

/** Builds a graph in execution order. Value names are unique: a taken hint gets a number behind it. */
export class GraphBuilder {
  readonly types = new Map<string, TensorType>();
  private readonly inputs: GraphInput[] = [];
  private readonly outputs: GraphOutput[] = [];
  private readonly nodes: Node[] = [];

  constructor(readonly name: string) {}

  type(value: string): TensorType {
    return typeOf(this, value);
  }

  input(name: string, role: InputRole, type: TensorType, carries?: string): string {
    if (this.types.has(name)) throw new Error(`graph ${this.name}: value ${name} is defined twice`);
    this.inputs.push({ name, role, ...(carries !== undefined && { carries }) });
    this.types.set(name, type);
    return name;
  }

  output(output: GraphOutput): void {
    typeOf(this, output.name);
    this.outputs.push(output);
  }

  /** Adds a node and returns its output names. `hint` names the first output. */
  node<A extends Attrs>(op: OpSignature<A>, inputs: readonly string[], attrs: A, hint?: string): string[] {
    const types = op.infer(
      inputs.map((value) => (value === "" ? null : this.type(value))),
      attrs,
    );
    const outputs = types.map((type, i) => {
      const name = this.fresh(i === 0 ? (hint ?? op.name) : `${hint ?? op.name}.${i}`);
      this.types.set(name, type);
      return name;
    });
    this.nodes.push({ op: op.name, inputs: [...inputs], outputs, attrs });
    return outputs;
  }

  /** A node of one output (or of which only the first is of interest). */
  value<A extends Attrs>(op: OpSignature<A>, inputs: readonly string[], attrs: A, hint?: string): string {
    return this.node(op, inputs, attrs, hint)[0]!;
  }

  /** Adds a node as it stands; the types of its outputs come from another graph. */
  append(node: Node, types: ReadonlyMap<string, TensorType>): void {
    for (const output of node.outputs) {
      if (this.types.has(output)) throw new Error(`graph ${this.name}: value ${output} is defined twice`);
      this.types.set(output, types.get(output)!);
    }
    this.nodes.push(node);
  }

  build(): Graph {
    return {
      name: this.name,
      inputs: [...this.inputs],
      outputs: [...this.outputs],
      nodes: [...this.nodes],
      types: new Map(this.types),
    };
  }

  private fresh(hint: string): string {
    if (!this.types.has(hint)) return hint;
    for (let i = 1; ; i++) {
      const name = `${hint}_${i}`;
      if (!this.types.has(name)) return name;
    }
  }
}
