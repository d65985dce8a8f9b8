import { GraphBuilder } from "../graph/builder.ts";
import { DTYPE_BYTES } from "../base/dtype.ts";
import { byteLength, elements, type Graph, type TensorType } from "../graph/types.ts";
import { Add } from "../ops/add.ts";
import { SumSquares } from "../ops/sum-squares.ts";
import type { Programs } from "../runtime/chain.ts";
import { type Address, align, ALIGNMENT, type Executor, PIECE } from "../runtime/executor.ts";
import { flatLayout, type FlatParams, type FlatPart, type OptimizerMemory, type ParamInfo } from "../runtime/resident.ts";
import type { OptimizerChoice } from "./index.ts";
import { isMatrix, type StateSlot, type UpdateRule } from "./optimizer.ts";

/**
 * Where an optimizer's state lies, and the calls that an update is made of, before anything is reserved. Parameters that are updated
 * alike stand side by side in the flat arrays: a *run*. The calls depend on each other in nothing but the global norm of the
 * gradients, which is known when all `norms` have run.
 */
export interface OptimizerPlan extends OptimizerMemory {
  readonly choice: OptimizerChoice;
  readonly runs: readonly Run[];
  readonly norms: readonly NormCall[];
  readonly updates: readonly UpdateCall[];
}

/** Consecutive trainable parameters with one rule and one weight decay. */
export interface Run {
  readonly rule: UpdateRule;
  readonly weightDecay: number;
  /** Elements [begin, end) of the flat arrays. */
  readonly begin: number;
  readonly end: number;
  readonly parts: readonly FlatPart[];
  /** By slot: the first byte of its array in the state. */
  readonly offsets: ReadonlyMap<StateSlot, number>;
}

/** The sum of the squares of some gradients: by input, where its elements begin. */
export interface NormCall {
  readonly graph: Graph;
  readonly begins: ReadonlyMap<string, number>;
}

export interface UpdateCall {
  readonly graph: Graph;
  readonly run: Run;
  readonly begin: number;
  /** By slot: where in the state the values of these elements begin, in bytes. */
  readonly offsets: ReadonlyMap<StateSlot, number>;
}

/**
 * Elements that one call updates: the operators that an update is made of elsewhere than on `wasm` take some temporary copies of
 * what they work on, and no more than a small share of the state. A call has its own costs, so that a small piece is not worth it.
 */
function pieceSize(size: number): number {
  return Math.max(LEAST_PIECE, align(Math.ceil(size / MOST_PIECES), LARGEST_MULTIPLE));
}
const MOST_PIECES = 128;
const LEAST_PIECE = 2 ** 18;
const LARGEST_MULTIPLE = 64;

/** @param apart a call works on whole parameters alone: each has a buffer of its own, into which no address points */
export function planOptimizer(choice: OptimizerChoice, params: readonly ParamInfo[], apart = false): OptimizerPlan {
  const groups = groupsOf(choice, params);
  for (const { rule } of groups) checkSlots(rule);
  const layout = flatLayout(groups.map(({ params, rule }) => ({ params, multipleOf: multipleOf(rule) })));
  let bytes = 0;
  let first = 0;
  const runs = groups.map(({ rule, weightDecay, params }): Run => {
    const parts = layout.parts.slice(first, (first += params.length));
    const end = layout.parts[first]?.begin ?? layout.size;
    const offsets = new Map<StateSlot, number>();
    for (const slot of rule.slots) {
      offsets.set(slot, bytes);
      bytes += align(slotOffset(slot, parts, end));
    }
    return { rule, weightDecay, begin: parts[0]!.begin, end, parts, offsets };
  });
  const graphs = createGraphs();
  const most = pieceSize(layout.size);
  return {
    choice,
    layout,
    bytes,
    runs,
    norms: apart
      ? normsApart(layout.parts, graphs)
      : runs.flatMap((run) => pieces(run, most).map((piece) => normOf([piece], graphs))),
    updates: runs.flatMap((run) => updatesOf(run, apart ? partsOf(run) : pieces(run, align(most, unitOf(run.rule))), graphs)),
  };
}

/** The programs of an update, each once. */
export function updateGraphs({ norms, updates }: OptimizerPlan): Graph[] {
  return [...new Set([...norms, ...updates].map(({ graph }) => graph))];
}

/** Bytes that the programs of an update need, one after the other. */
export function updateWorkspace(programs: Programs, graphs: readonly Graph[]): number {
  return Math.max(0, ...graphs.map((graph) => programs.of(graph).workspace));
}

interface Group {
  readonly rule: UpdateRule;
  readonly weightDecay: number;
  readonly params: ParamInfo[];
}

/**
 * Trainable parameters by rule, first those with weight decay, which matrices alone have, as in Transformers' Trainer; within a group in the
 * order of the chain.
 */
function groupsOf(choice: OptimizerChoice, params: readonly ParamInfo[]): Group[] {
  const groups: Group[] = [];
  const trainable = params.filter((param) => param.trainable);
  for (const isDecayed of [true, false]) {
    const byRule = new Map<UpdateRule, Group>();
    for (const param of trainable.filter((param) => isMatrix(param) === isDecayed)) {
      const rule = choice.ruleOf(param);
      const group = byRule.get(rule) ?? { rule, weightDecay: isDecayed ? choice.weightDecay : 0, params: [] };
      group.params.push(param);
      byRule.set(rule, group);
    }
    groups.push(...byRule.values());
  }
  return groups;
}

function multipleOf({ reach }: UpdateRule): number {
  return reach === "matrix" ? 1 : reach.multipleOf;
}

/** Elements of which a call has a multiple (powers of two), so that all that the next one works on begins at an address that kernels take. */
function unitOf(rule: UpdateRule): number {
  const units = rule.slots.map(({ dtype, per }) => (ALIGNMENT / DTYPE_BYTES[dtype]) * (typeof per === "object" ? per.block : 1));
  return Math.max(multipleOf(rule), LARGEST_MULTIPLE, ...units);
}

/** A call that reaches across parameters finds its values by the number of its first element. */
function checkSlots({ name, slots, reach }: UpdateRule): void {
  for (const { name: slot, per } of slots) {
    const fits =
      reach === "matrix"
        ? typeof per === "string"
        : typeof per === "object"
          ? reach.multipleOf % per.block === 0
          : per === "element";
    if (!fits) throw new Error(`rule ${name}: slot ${slot} does not fit what a call reaches`);
  }
}

/** Values that a slot has for a parameter. */
export function slotShape({ per }: StateSlot, { type }: ParamInfo): readonly number[] {
  if (per === "element") return type.shape;
  if (per === "row") return [type.shape[0]!];
  if (per === "column") return [type.shape.at(-1)!];
  return per === "matrix" ? [1] : [Math.ceil(elements(type.shape) / per.block)];
}

/** Bytes that the elements of a run before `begin` have in a slot's array. */
function slotOffset(slot: StateSlot, parts: readonly FlatPart[], begin: number): number {
  const start = parts[0]!.begin;
  const { dtype, per } = slot;
  const bytesOf = (values: number) => byteLength({ dtype, shape: [values] });
  if (per === "element") return bytesOf(begin - start);
  if (typeof per === "object") return bytesOf((begin - start) / per.block);
  return parts
    .filter((part) => part.begin < begin)
    .reduce((bytes, { param }) => bytes + align(byteLength({ dtype, shape: slotShape(slot, param) })), 0);
}

/** Consecutive elements of the flat arrays. */
interface Piece {
  readonly begin: number;
  readonly size: number;
}

/** The elements of each parameter, as its segments have them where the rule can do without more. */
function partsOf({ rule, parts }: Run): Piece[] {
  return parts.map(({ param, begin }) => ({ begin, size: align(elements(param.type.shape), multipleOf(rule)) }));
}

/** Gradients that one program sums up. */
const MOST_GRADIENTS = 32;

/** A program sums up many gradients, since each sum is one that comes back; those of one size stand together, so that programs are shared. */
function normsApart(parts: readonly FlatPart[], graphs: Graphs): NormCall[] {
  const sorted = parts
    .map(({ param, begin }): Piece => ({ begin, size: elements(param.type.shape) }))
    .sort((one, other) => one.size - other.size);
  return Array.from({ length: Math.ceil(sorted.length / MOST_GRADIENTS) }, (_, i) =>
    normOf(sorted.slice(i * MOST_GRADIENTS, (i + 1) * MOST_GRADIENTS), graphs),
  );
}

function normOf(some: readonly Piece[], graphs: Graphs): NormCall {
  return {
    graph: graphs.norm(some.map(({ size }) => size)),
    begins: new Map(some.map(({ begin }, i) => [gradientInput(i), begin])),
  };
}

const gradientInput = (i: number): string => (i === 0 ? "gradient" : `gradient.${i}`);

function pieces({ begin, end }: Pick<Run, "begin" | "end">, most: number): Piece[] {
  return Array.from({ length: Math.ceil((end - begin) / most) }, (_, i) => {
    const at = begin + i * most;
    return { begin: at, size: Math.min(most, end - at) };
  });
}

function updatesOf(run: Run, pieces: readonly Piece[], graphs: Graphs): UpdateCall[] {
  const { rule, parts } = run;
  const call = (begin: number, shape: readonly number[]): UpdateCall => ({
    graph: graphs.update(rule, shape),
    run,
    begin,
    offsets: new Map(rule.slots.map((slot) => [slot, run.offsets.get(slot)! + slotOffset(slot, parts, begin)])),
  });
  // The filters of a convolution [channels, 1, width] are one vector.
  const shapeOf = ({ type: { shape } }: ParamInfo) => (shape.length > 2 ? [elements(shape)] : shape);
  if (rule.reach === "matrix") return parts.map(({ param, begin }) => call(begin, shapeOf(param)));
  return pieces.map(({ begin, size }) => call(begin, [size]));
}

interface Graphs {
  norm(sizes: readonly number[]): Graph;
  update(rule: UpdateRule, shape: readonly number[]): Graph;
}

/** Graphs by what they depend on, so that pieces of one size share a program. */
function createGraphs(): Graphs {
  const made = new Map<string, Graph>();
  const once = (key: string, make: () => Graph) => {
    const graph = made.get(key) ?? make();
    made.set(key, graph);
    return graph;
  };
  return {
    norm: (sizes) => once(`norm ${sizes.join(" ")}`, () => normGraph(sizes)),
    update: (rule, shape) => once(`${rule.name} ${shape.join(" ")}`, () => updateGraph(rule, shape)),
  };
}

function normGraph(sizes: readonly number[]): Graph {
  const builder = new GraphBuilder("gradient-norm");
  const inputs = sizes.map((size, i) => builder.input(gradientInput(i), "accumulator", { dtype: "f32", shape: [size] }));
  const squares = inputs.map((input, i) => builder.value(SumSquares, [input], {}, i === 0 ? "squares" : `squares.${i}`));
  const sum = squares.reduce((one, other, i) => builder.value(Add, [one, other], {}, `sum.${i}`));
  builder.output({ name: sum, role: "state" });
  return builder.build();
}

function updateGraph(rule: UpdateRule, shape: readonly number[]): Graph {
  const builder = new GraphBuilder(rule.name);
  const type: TensorType = { dtype: "f32", shape };
  builder.input("param", "param", type);
  builder.input("gradient", "accumulator", type);
  for (const slot of rule.slots) {
    const values = slotShape(slot, { name: rule.name, type, trainable: true });
    builder.input(slot.name, "accumulator", { dtype: slot.dtype, shape: values });
  }
  builder.input("hyper", "batch", { dtype: "f32", shape: [rule.hyperSize] });
  const next = rule.update(builder);
  for (const name of ["param", ...rule.slots.map((slot) => slot.name)])
    builder.output({ name: next[name]!, role: "state", updates: name });
  return builder.build();
}

/** An optimizer's state in an executor's memory. */
export interface OptimizerState {
  readonly plan: OptimizerPlan;
  readonly address: Address;
}

/** Reserves the state as it is before the first step. @param address its place, where it takes no memory */
export function reserveOptimizer(executor: Executor, plan: OptimizerPlan, address?: Address): OptimizerState {
  const state = { plan, address: address ?? executor.reserve(plan.bytes) };
  resetOptimizer(executor, state);
  return state;
}

/** Makes the state what it is before the first step. */
export function resetOptimizer(executor: Executor, { plan, address }: OptimizerState): void {
  executor.zero(address, plan.bytes);
  for (const { rule, parts, end, offsets } of plan.runs) {
    for (const slot of rule.slots.filter(({ start }) => start !== 0)) {
      const piece = startBytes(slot);
      const bytes = slotOffset(slot, parts, end);
      const from = address + offsets.get(slot)!;
      for (let at = 0; at < bytes; at += PIECE) executor.write(from + at, piece.subarray(0, Math.min(PIECE, bytes - at)));
    }
  }
}

/** As many values of a slot's start as a piece holds. */
function startBytes({ name, dtype, start }: StateSlot): Uint8Array {
  if (dtype === "u8") return new Uint8Array(PIECE).fill(start);
  if (dtype === "f32") return new Uint8Array(new Float32Array(PIECE / 4).fill(start).buffer);
  throw new Error(`slot ${name}: values of ${dtype} begin at 0; got ${start}`);
}

/** A tensor of what is trained, in an executor's memory. */
export interface TrainedTensor {
  /** `param/<parameter>` or `<slot>/<parameter>`. */
  readonly name: string;
  readonly type: TensorType;
  readonly address: Address;
}

/** All that an optimizer works on: the trainable parameters, and its state of each. */
export function trainedTensors(flat: FlatParams, { plan, address }: OptimizerState): TrainedTensor[] {
  return plan.runs.flatMap(({ rule, parts, offsets }) =>
    parts.flatMap(({ param, begin }): TrainedTensor[] => [
      { name: `param/${param.name}`, type: param.type, address: flat.param + 4 * begin },
      ...rule.slots.map((slot) => ({
        name: `${slot.name}/${param.name}`,
        type: { dtype: slot.dtype, shape: slotShape(slot, param) },
        address: address + offsets.get(slot)! + slotOffset(slot, parts, begin),
      })),
    ]),
  );
}
