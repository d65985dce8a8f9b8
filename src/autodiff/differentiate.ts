import { GraphBuilder } from "../graph/builder.ts";
import { accumulatorOf } from "../graph/segment.ts";
import type { Attrs, Graph, GraphOutput, Node } from "../graph/types.ts";
import { Add } from "../ops/add.ts";
import { opOf } from "../ops/index.ts";
import type { GradientContext } from "../ops/types.ts";

/** A forward graph and its reverse-mode derivative in one: the first `forwardNodes` nodes are the forward's own. */
export interface JointGraph {
  readonly graph: Graph;
  readonly forwardNodes: number;
  /** The forward's outputs (boundary or loss); `graph.outputs` holds the gradients. */
  readonly forwardOutputs: readonly GraphOutput[];
}

export interface DifferentiateOptions {
  /** Inputs of role `param` whose gradients are wanted. */
  readonly trainable: ReadonlySet<string>;
  /** True if the gradient of the segment's input boundary is wanted. */
  readonly inputGrad: boolean;
  /** Inputs of role `carried` whose gradients are wanted. */
  readonly carried: ReadonlySet<string>;
}

/** Name of the gradient of a value. */
const gradientName = (value: string): string => `d.${value}`;

/**
 * Reverse-mode differentiation (Griewank & Walther, Evaluating Derivatives, 2008, chapter 3) of a graph with one
 * output of role `boundary` or `loss`, and perhaps some of role `carried`. Values that do not depend on a wanted input are not differentiated.
 * The gradient of the output is a graph input of role `output-grad`; the gradient of parameter p is the output
 * `acc.p + gradient`, which updates the input `acc.p`. So is that of a carried input c, the output `acc.c + gradient`; what all takers have added up is the
 * gradient of the carried output c, a graph input `acc.c`. Throws when an operator on the way has no gradient rule.
 */
export function differentiate(forward: Graph, options: DifferentiateOptions): JointGraph {
  const builder = new GraphBuilder(forward.name);
  for (const input of forward.inputs) builder.input(input.name, input.role, forward.types.get(input.name)!, input.carries);
  for (const node of forward.nodes) builder.append(node, forward.types);

  const wanted = (name: string, role: string) =>
    role === "param"
      ? options.trainable.has(name)
      : role === "carried"
        ? options.carried.has(name)
        : role === "boundary" && options.inputGrad;
  const active = new Set(forward.inputs.filter((input) => wanted(input.name, input.role)).map((input) => input.name));
  for (const node of forward.nodes)
    if (node.inputs.some((input) => active.has(input))) for (const output of node.outputs) active.add(output);

  const carried = forward.outputs.filter(({ role }) => role === "carried");
  const [output, ...others] = forward.outputs.filter(({ role }) => role !== "carried");
  if (!output || others.length > 0)
    throw new Error(`differentiate ${forward.name}: expected one output, got ${others.length + (output ? 1 : 0)}`);
  if (![output, ...carried].some(({ name }) => active.has(name)))
    throw new Error(`differentiate ${forward.name}: the output depends on no wanted input`);
  const gradients = new Map<string, string>();
  if (active.has(output.name))
    gradients.set(output.name, builder.input(gradientName(output.name), "output-grad", builder.type(output.name)));
  for (const { name, carries } of carried)
    if (active.has(name)) gradients.set(name, builder.input(accumulatorOf(carries!), "carried-grad", builder.type(name)));

  for (const node of forward.nodes.toReversed()) backpropagate(builder, node, active, gradients);

  for (const input of forward.inputs) {
    const gradient = gradients.get(input.name);
    if (!gradient || !wanted(input.name, input.role)) continue;
    if (input.role === "boundary") {
      builder.output({ name: gradient, role: "input-grad" });
    } else {
      const [from, to] =
        input.role === "carried" ? (["carried-grad", "carried-grad"] as const) : (["accumulator", "param-grad"] as const);
      const accumulator = builder.input(accumulatorOf(input.name), from, builder.type(input.name));
      const sum = builder.value(Add, [accumulator, gradient], {}, `grad.${input.name}`);
      builder.output({ name: sum, role: to, updates: accumulator });
    }
  }
  return { graph: builder.build(), forwardNodes: forward.nodes.length, forwardOutputs: forward.outputs };
}

function backpropagate(builder: GraphBuilder, node: Node, active: ReadonlySet<string>, gradients: Map<string, string>): void {
  const outputGrads = node.outputs.map((output) => gradients.get(output) ?? null);
  if (outputGrads.every((gradient) => gradient === null) || !node.inputs.some((input) => active.has(input))) return;
  const { gradient } = opOf(node);
  if (typeof gradient !== "function") {
    throw new Error(
      `differentiate ${builder.name}: ${node.op} (${node.outputs[0]}) is not differentiable: ${gradient.notDifferentiable}`,
    );
  }
  const context: GradientContext<Attrs> = {
    builder,
    node,
    attrs: node.attrs,
    input: (i) => node.inputs[i] ?? "",
    output: (i) => node.outputs[i]!,
    grad: (i) => outputGrads[i] ?? null,
    needs: (i) => active.has(node.inputs[i] ?? ""),
  };
  const inputGrads = gradient(context);
  node.inputs.forEach((input, i) => {
    const contribution = inputGrads[i];
    if (!contribution || !active.has(input)) return;
    const sum = gradients.get(input);
    gradients.set(input, sum ? builder.value(Add, [sum, contribution], {}, gradientName(input)) : contribution);
  });
}
