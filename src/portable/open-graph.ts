import { type AttrValue, elements, type Shape } from "../graph/types.ts";
import type { DType } from "../base/dtype.ts";
import { encodeAttributes, encodeTensor } from "../onnx/encode.ts";
import { type NodeProto, type TensorProto } from "../onnx/messages.ts";

/** Collects the nodes of a graph whose batch and length are known only when it runs; values are named after the operator that makes them. */
export class OpenGraph {
  readonly nodes: NodeProto[] = [];
  /** Small numbers, by name. */
  readonly constants = new Map<string, TensorProto>();
  /** Shapes of the weights, by their names in the checkpoint. */
  readonly weights = new Map<string, Shape>();
  private count = 0;

  op(opType: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrValue>> = {}): string {
    return this.ops(opType, inputs, attrs, 1)[0]!;
  }

  ops(opType: string, inputs: readonly string[], attrs: Readonly<Record<string, AttrValue>>, outputs: number): string[] {
    const name = `${opType}_${++this.count}`;
    const output = Array.from({ length: outputs }, (_, i) => (i === 0 ? name : `${name}.${i}`));
    this.nodes.push({ name, opType, input: inputs, output, attribute: encodeAttributes(opType, attrs) });
    return output;
  }

  /** Gives a value the name by which others know it. */
  named(value: string, name: string): void {
    this.nodes.push({ name, opType: "Identity", input: [value], output: [name] });
  }

  weight(name: string, shape: Shape): string {
    this.weights.set(name, shape);
    return name;
  }

  constant(dtype: DType, shape: Shape, data: readonly number[]): string {
    const name = `${dtype}[${shape.join()}]${elements(shape) > 8 ? ` ${this.constants.size}` : ` ${data.join()}`}`;
    if (!this.constants.has(name)) this.constants.set(name, encodeTensor(name, { dtype, shape }, data));
    return name;
  }

  ints(values: readonly number[]): string {
    return this.constant("i64", [values.length], values);
  }

  scalar(value: number, dtype: DType = "f32"): string {
    return this.constant(dtype, [], [value]);
  }
}
