import { prune } from "../graph/passes.ts";
import type { Segment, SegmentModel, TrainingPrograms } from "../graph/segment.ts";
import { type Graph, type Node, type OutputRole, type TensorType, typeOf } from "../graph/types.ts";
import { type FloatType } from "../base/dtype.ts";
import { Add } from "../ops/add.ts";
import { Cast, CAST_TO } from "../ops/cast.ts";
import { Dequantize } from "../ops/dequantize.ts";
import { isFloat } from "../ops/half.ts";
import { opOf } from "../ops/index.ts";

/**
 * Mixed precision: the programs of segments rewritten to compute in bf16 or f16. Boundaries, tapes, their gradients and
 * every other value of two dimensions has the half type. f32 stay
 * - parameters as they are stored: what is trained, norm weights, biases; a program casts them where it uses them,
 * - gradients of parameters and of carried values: each product has the half type and is added to an f32 accumulator,
 * - sums over rows and exponentials: operators that do not declare inputs as `narrow` run in f32 between casts, the others
 *   take care of it in their bodies,
 * - loss, logits, caches of keys and values.
 *
 * A value is rounded when it is made, before anyone uses it, so a replay and a tape give the same.
 */
export function inPrecision(segments: readonly Segment[], dtype: FloatType): Segment[] {
  if (dtype === "f32") return [...segments];
  const models = new Map<SegmentModel, SegmentModel>();
  return segments.map((segment) => {
    let model = models.get(segment.model);
    if (!model) models.set(segment.model, (model = modelInPrecision(segment.model, dtype)));
    return { ...segment, model };
  });
}

function modelInPrecision(model: SegmentModel, dtype: FloatType): SegmentModel {
  const forward = graphInPrecision(model.forward, dtype);
  const programs = (pair: TrainingPrograms): TrainingPrograms => {
    const taped = pair.taped === model.forward ? forward : graphInPrecision(pair.taped, dtype);
    return { ...pair, taped, backward: graphInPrecision(pair.backward, dtype, taped) };
  };
  return {
    ...model,
    forward,
    training: model.training && programs(model.training),
    variants: model.variants.map(programs),
    fused: model.fused && graphInPrecision(model.fused, dtype),
  };
}

/** `taped` says which types the tape has that the graph reads. */
function graphInPrecision(graph: Graph, dtype: FloatType, taped?: Graph): Graph {
  const wide = new Set(graph.outputs.filter(({ role }) => WIDE_ROLES.has(role)).map(({ name }) => name));
  // The scales of codes are no numbers that anybody computes with.
  const exact = new Set(graph.nodes.flatMap(({ op, inputs }) => (op === Dequantize.name ? inputs : [])));
  const types = new Map<string, TensorType>();
  const nodes: Node[] = [];
  const add = (node: Node, made: readonly TensorType[]): void => {
    node.outputs.forEach((name, i) => types.set(name, made[i]!));
    nodes.push(node);
  };
  const cast = (from: string, to: string, dtype: FloatType): void => {
    const node = { op: Cast.name, inputs: [from], outputs: [to], attrs: { to: CAST_TO[dtype] } };
    add(node, [{ ...types.get(from)!, dtype }]);
  };
  const fresh = (name: string): string => (types.has(name) || graph.types.has(name) ? fresh(`${name}_`) : name);

  /** The values that exact casts to f32 were made from: for nodes that compute in that type. */
  const sources = new Map<string, string>();
  const forms = new Map<string, string>();
  const form = (name: string, dtype: FloatType): string => {
    const source = sources.get(name);
    if (source !== undefined && types.get(source)!.dtype === dtype) return source;
    const type = types.get(name)!;
    if (!isFloat(type.dtype) || type.dtype === dtype) return name;
    const key = `${name}.${dtype}`;
    let made = forms.get(key);
    if (made === undefined) {
      made = fresh(key);
      forms.set(key, made);
      cast(name, made, dtype);
    }
    return made;
  };

  for (const { name, role } of graph.inputs) {
    const type = typeOf(graph, name);
    const flows = (role === "boundary" || role === "output-grad" || role === "carried") && isMatrix(type);
    types.set(name, role === "tape" ? typeOf(taped!, name) : flows ? { ...type, dtype } : type);
  }
  for (const node of graph.nodes) {
    if (node.op === Cast.name) {
      sources.set(node.outputs[0]!, node.inputs[0]!);
      add(node, [typeOf(graph, node.outputs[0]!)]);
      continue;
    }
    const { infer, narrow = [], cost, accumulates } = opOf(node);
    const isNarrow = (i: number) => narrow === "all" || narrow.includes(i);
    const isWide = node.outputs.some((name) => wide.has(name));
    const isVector = node.inputs.every((name) => name === "" || typeOf(graph, name).shape.length < 2);
    // A product may be rounded before it is added to an accumulator; a sum that stays f32 is one from the start.
    const computes = narrow.length > 0 && (cost === "compute" || !(isWide || isVector));
    // Who only moves values, or maps one by one, takes them as they come.
    const moves = computes && cost === "memory" && narrow !== "all" && narrow.length === 1;
    const inputs = node.inputs.map((name, i) => {
      if (name === "" || (moves && isNarrow(i))) return name;
      return form(name, computes && isNarrow(i) ? dtype : "f32");
    });
    let sum = "";
    if (computes && isWide && accumulates && isNarrow(accumulates.input)) {
      sum = node.inputs[accumulates.input] ?? "";
      if (sum !== "") inputs[accumulates.input] = "";
    }

    const made = infer(
      inputs.map((name) => (name === "" ? null : types.get(name)!)),
      node.attrs,
    );
    const after: (() => void)[] = [];
    const outputs = node.outputs.map((name, i) => {
      const type = made[i]!;
      const isSum = sum !== "" && i === accumulates!.output;
      const isRounded = !wide.has(name) && !exact.has(name) && isMatrix(type) && (moves || !computes);
      if (!isSum && !isRounded && !(wide.has(name) && isHalf(type))) return name;
      const raw = fresh(`${name}.made`);
      if (isSum)
        after.push(() => add({ op: Add.name, inputs: [sum, form(raw, "f32")], outputs: [name], attrs: {} }, [types.get(sum)!]));
      else after.push(() => cast(raw, name, isRounded ? dtype : "f32"));
      return raw;
    });
    add({ ...node, inputs: withoutTrailing(inputs), outputs }, made);
    for (const each of after) each();
  }
  return prune({ ...graph, nodes, types });
}

/** Outputs that are f32, and who makes them. */
const WIDE_ROLES: ReadonlySet<OutputRole> = new Set<OutputRole>([
  "param-grad",
  "loss",
  "token-losses",
  "text-logits",
  "logits",
  "state",
  "carried-grad",
]);

const isMatrix = ({ dtype, shape }: TensorType): boolean => dtype === "f32" && shape.length > 1;
const isHalf = ({ dtype }: TensorType): boolean => isFloat(dtype) && dtype !== "f32";

function withoutTrailing(inputs: readonly string[]): string[] {
  return inputs.slice(0, inputs.findLastIndex((name) => name !== "") + 1);
}
