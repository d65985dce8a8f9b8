/** A graph becomes a command buffer: liveness, elision of what widens weights, lowering, placement, encoding. */
import { Opcode } from "../../assembly/opcodes.ts";
import { byteLength, type Graph, type Node, type TensorType, typeOf } from "../graph/types.ts";
import {
  hasInput,
  type KernelEmitter,
  type NativeLibrary,
  type OffsetOperand,
  type OpDef,
  type Operand,
  type Scalar,
  type Scratch,
} from "../ops/types.ts";
import type { NeededRead, WeightRead } from "../runtime/executor.ts";
import { weightInputs } from "../graph/weight-inputs.ts";
import { plan, type Place, type Step } from "./plan.ts";

export interface Lowered {
  /** The commands, encoded as assembly/command.ts describes. */
  readonly commands: Int32Array;
  /** The word that each command begins at, and the end of the last one. */
  readonly starts: readonly number[];
  /** Names of the bound values: `slots[i]` is slot `i + 1`; slot 0 is the workspace. */
  readonly slots: readonly string[];
  /** The reads of weights, each with a slot of its own, behind those of `slots`. */
  readonly reads: readonly WeightRead[];
  /** Bytes of workspace: the exact peak. */
  readonly workspace: number;
  /** The node of the command that begins at this word; null for a final copy. */
  nodeAt(word: number): Node | null;
}

interface Command {
  readonly opcode: Opcode;
  readonly operands: readonly Operand[];
  readonly scalars: readonly Scalar[];
}

/** A node that runs, its inputs with what is elided looked through. */
interface LiveNode {
  readonly node: Node;
  readonly op: OpDef;
  readonly inputs: readonly string[];
  /** By input: the scales of codes that are read in place. */
  readonly scales: ReadonlyMap<number, string>;
  /** Outputs, `""` for those that nobody uses. */
  readonly outputs: readonly string[];
}

export function lower(graph: Graph, opOf: (node: Node) => OpDef, native: NativeLibrary | null = null, few = false): Lowered {
  const nodes = elideWidening(graph, liveNodes(graph, opOf));
  const known = { weights: new Set(weightInputs(graph)), gradients: valuesFromGradients(graph) };
  const commands: Command[][] = [];
  const scratch: Scratch[][] = [];
  const steps = nodes.map((live): Step => {
    const emitted: Command[] = [];
    const buffers: Scratch[] = [];
    const half = live.outputs.map((name) => graph.types.get(name)).find((type) => type && isHalf(type));
    if (half && live.node.op !== "Cast" && !live.op.view)
      throw new Error(`graph ${graph.name}: there is no kernel that computes ${live.node.op} in ${half.dtype}`);
    if (!live.op.view) live.op.lower(emitter(graph, live, known, emitted, buffers, { native, few }));
    commands.push(emitted);
    scratch.push(buffers);
    const { inPlace = [], accumulates } = live.op;
    return {
      reads: [...live.inputs, ...live.scales.values()],
      writes: live.outputs,
      inPlace: accumulates ? [[accumulates.output, accumulates.input], ...inPlace] : inPlace,
      view: live.op.view === true,
      scratch: buffers.map((buffer) => buffer.scratch),
    };
  });
  const placement = plan({
    inputs: graph.inputs.map((input) => input.name),
    outputs: graph.outputs,
    steps,
    bytes: (value) => byteLength(typeOf(graph, value)),
  });

  const words = new CommandWriter();
  const reads: WeightRead[] = [];
  /** Which commands run only where an expert has tokens, until which. */
  let skipped: NeededRead | null = null;
  let sorted = 0;
  /** An operand in a weight gets a slot of its own: the weight may be elsewhere when another command reads it. */
  const readOf = ({ slot, offset }: Place, bytes: number | undefined): Place => {
    const input = placement.slots[slot - 1];
    if (input === undefined || !known.weights.has(input)) return { slot, offset };
    const length = bytes ?? byteLength(typeOf(graph, input)) - offset;
    const command = words.starts.length;
    const needed = skipped !== null && command < skipped.end ? skipped : null;
    reads.push({ input, offset, bytes: length, command, ...(needed && { needed }) });
    return { slot: placement.slots.length + reads.length, offset: 0 };
  };
  const origins: { readonly word: number; readonly node: Node }[] = [];
  nodes.forEach(({ node }, at) => {
    const scratchPlace = new Map(scratch[at]!.map((buffer, i) => [buffer, placement.scratch[at]![i]!]));
    const placeOf = (base: string | Scratch): Place | null => {
      const place = typeof base === "string" ? placement.place.get(base) : scratchPlace.get(base);
      // What has no place is an output that nobody uses, or an absent input.
      if (!place && (typeof base !== "string" || (base !== "" && !node.outputs.includes(base)))) {
        throw new Error(
          `${node.op} of graph ${graph.name} emits an operand that is neither its own scratch nor a value in memory`,
        );
      }
      return place ?? null;
    };
    for (const { opcode, operands, scalars } of commands[at]!) {
      origins.push({ word: words.length, node });
      if (opcode === Opcode.SortTokens) sorted = words.starts.length;
      if (opcode === Opcode.SkipExpert) {
        const [expert, count] = scalars as readonly [number, number];
        const counts = placeOf(operands[0] as Scratch)!;
        const first = words.starts.length;
        skipped = { offset: counts.offset + 4 * expert, known: sorted, first, end: first + 1 + count };
      }
      words.command(
        opcode,
        operands.map((operand) => {
          if (operand === null) return null;
          const { base, offset, bytes } = partOf(operand);
          const place = placeOf(base);
          return place && readOf({ slot: place.slot, offset: place.offset + offset }, bytes);
        }),
        scalars,
      );
    }
  });
  const copiesAt = words.length;
  for (const { value, to } of placement.copies) {
    const bytes = byteLength(typeOf(graph, value));
    words.command(Opcode.Copy, [readOf(placement.place.get(value)!, bytes), to], [bytes]);
  }
  return {
    commands: words.finish(),
    starts: [...words.starts, words.length],
    slots: placement.slots,
    reads,
    workspace: placement.workspace,
    nodeAt: (word) => (word >= copiesAt ? null : (origins.findLast((origin) => origin.word <= word)?.node ?? null)),
  };
}

function partOf(operand: string | Scratch | OffsetOperand): OffsetOperand {
  return typeof operand === "string" || "scratch" in operand ? { base: operand, offset: 0 } : operand;
}

/** The gradients that enter the graph, and what is computed from them. */
function valuesFromGradients({ inputs, nodes }: Graph): Set<string> {
  const values = new Set(inputs.filter(({ role }) => role === "output-grad" || role === "carried-grad").map(({ name }) => name));
  for (const node of nodes) if (node.inputs.some((name) => values.has(name))) for (const name of node.outputs) values.add(name);
  return values;
}

/** The nodes whose results reach an output of the graph. */
function liveNodes(graph: Graph, opOf: (node: Node) => OpDef): LiveNode[] {
  const used = new Set(graph.outputs.map((output) => output.name));
  const live: LiveNode[] = [];
  for (const node of graph.nodes.toReversed()) {
    const outputs = node.outputs.map((name) => (used.has(name) ? name : ""));
    if (outputs.every((name) => name === "")) continue;
    for (const name of node.inputs) used.add(name);
    live.push({ node, op: opOf(node), inputs: node.inputs, scales: new Map(), outputs });
  }
  return live.reverse();
}

/** Drops casts from half precision, and Dequantize, whose consumers all read the stored type themselves. */
function elideWidening(graph: Graph, nodes: readonly LiveNode[]): LiveNode[] {
  const outputs = new Set(graph.outputs.map((output) => output.name));
  const needed = { halfInputs: new Set(outputs), quantisedInputs: new Set(outputs) };
  for (const { op, inputs } of nodes) {
    inputs.forEach((name, i) => {
      if (!hasInput(op.halfInputs, i)) needed.halfInputs.add(name);
      if (!hasInput(op.quantisedInputs, i)) needed.quantisedInputs.add(name);
    });
  }
  const source = new Map<string, readonly string[]>();
  for (const { node, inputs } of nodes) {
    const to = node.outputs[0]!;
    const widens = node.op === "Cast" && isHalf(typeOf(graph, inputs[0]!)) && typeOf(graph, to).dtype === "f32";
    if (widens ? !needed.halfInputs.has(to) : node.op === "Dequantize" && !needed.quantisedInputs.has(to)) source.set(to, inputs);
  }
  return nodes
    .filter(({ node }) => !source.has(node.outputs[0]!))
    .map((live) => ({
      ...live,
      inputs: live.inputs.map((name) => source.get(name)?.[0] ?? name),
      scales: new Map(live.inputs.flatMap((name, i) => (source.get(name)?.[1] ? [[i, source.get(name)![1]!] as const] : []))),
    }));
}

const isHalf = (type: TensorType): boolean => type.dtype === "bf16" || type.dtype === "f16";

function emitter(
  graph: Graph,
  { node, inputs, scales, outputs }: LiveNode,
  { weights, gradients }: Readonly<Record<"weights" | "gradients", ReadonlySet<string>>>,
  commands: Command[],
  scratch: Scratch[],
  native: Pick<KernelEmitter, "native" | "few">,
): KernelEmitter {
  return {
    node,
    attrs: node.attrs,
    input: (i) => inputs[i] || null,
    scales: (i) => scales.get(i) ?? null,
    output: (i) => node.outputs[i]!,
    used: (i) => (outputs[i] ?? "") !== "",
    type: (value) => typeOf(graph, value),
    scratch(bytes) {
      const buffer = { scratch: bytes };
      scratch.push(buffer);
      return buffer;
    },
    isWeight: (value) => weights.has(value),
    isGradient: (value) => gradients.has(value),
    emit: (opcode, operands, scalars) => void commands.push({ opcode, operands, scalars }),
    ...native,
  };
}

/** Encodes commands; see assembly/command.ts for the layout. */
class CommandWriter {
  /** The word that each command begins at. */
  readonly starts: number[] = [];
  private readonly words: number[] = [];
  private readonly float = new Float32Array(1);
  private readonly floatBits = new Int32Array(this.float.buffer);

  get length(): number {
    return this.words.length;
  }

  command(opcode: Opcode, pointers: readonly (Place | null)[], scalars: readonly Scalar[]): void {
    this.starts.push(this.words.length);
    this.words.push(opcode, 3 + 2 * pointers.length + scalars.length, pointers.length);
    for (const place of pointers) this.words.push(place ? place.slot : -1, place ? place.offset : 0);
    for (const scalar of scalars) this.words.push(this.encode(scalar));
  }

  finish(): Int32Array {
    return Int32Array.from(this.words);
  }

  private encode(scalar: Scalar): number {
    if (typeof scalar === "number") {
      if (!Number.isInteger(scalar) || scalar < -(2 ** 31) || scalar >= 2 ** 32)
        throw new Error(`kernel scalar ${scalar} is not a 32-bit integer`);
      return scalar | 0;
    }
    this.float[0] = scalar.f32;
    return this.floatBits[0]!;
  }
}
