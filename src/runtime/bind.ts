import type { Segment } from "../graph/segment.ts";
import { byteLength, type Graph, typeOf } from "../graph/types.ts";
import { type CarriedPlaces, carriedIn } from "./carried.ts";
import type { Programs, TapeLayout } from "./chain.ts";
import type { Address, Call, Executor } from "./executor.ts";
import type { Resident } from "./resident.ts";
import type { GradientWindow } from "./streaming/gradient-window.ts";
import { isOutside } from "./streaming/outside.ts";
import type { WeightWindow } from "./streaming/weight-window.ts";

/** Memory that is not scheduled: what every segment's programs bind beside the stash. */
export interface StepMemory {
  readonly resident: Pick<Resident, "param" | "gradient">;
  /** Inputs of role `batch`, by name; and `tokenLosses` or `textLogits`, which an open head writes. */
  readonly batch: ReadonlyMap<string, Address>;
  /** Per segment: an i32 that holds its index. */
  readonly segmentIndex: readonly Address[];
  /** An f32 1: the gradient of the loss. */
  readonly lossGradient: Address;
  readonly loss: Address;
  /** An i32: how many labels were the likeliest token, which evaluation counts. */
  readonly correct: Address;
  /** Where weights are while they are read that have no place of their own. */
  readonly window?: WeightWindow | null;
  /** Where gradients are while programs add to them that lie outside. */
  readonly gradients?: GradientWindow | null;
  /** Per segment, inputs of role `cache`, by name: generation alone has them. */
  readonly cache?: readonly ReadonlyMap<string, Address>[];
  /** Values that cross segments beside the boundaries. */
  readonly carried: CarriedPlaces;
}

/** Where a program's scheduled values are. A role that the program lacks is never asked for. */
export interface Places {
  readonly input: () => Address;
  readonly output: () => Address;
  readonly tape: () => Address;
  readonly outputGrad: () => Address;
  readonly inputGrad: () => Address;
  readonly workspace: () => Address;
  readonly logits?: () => Address;
}

/** Places of a program in windows. */
export interface StreamedPlaces {
  /** Addresses of its reads of weights; null: all have places of their own. */
  readonly reads: readonly (Address | null)[] | null;
  /** Inputs that list rows of tables that lie outside, where these rows are numbered anew. */
  readonly rowLists: ReadonlySet<string>;
  /** Addresses of its accumulators by input; null: all have places of their own. */
  readonly gradients: ReadonlyMap<string, Address> | null;
}

export interface BoundProgram {
  readonly call: Call;
  /** End of the highest scheduled value or workspace that the program may touch. */
  readonly end: Address;
}

/**
 * Binds one program of segment `index` (0-based) to addresses, by the roles of its inputs and outputs.
 * @param streamed its places in windows, where it has any
 */
export function bindProgram(
  executor: Executor,
  programs: Programs,
  segment: Segment,
  index: number,
  graph: Graph,
  memory: StepMemory,
  layout: TapeLayout,
  places: Places,
  streamed: StreamedPlaces | null = null,
): BoundProgram {
  const addresses = new Map<string, Address>();
  let end = 0;
  const scheduled = (name: string, address: Address) => {
    addresses.set(name, address);
    end = Math.max(end, address + byteLength(typeOf(graph, name)));
  };
  const carried = new Map(Array.from(carriedIn(segment, graph), ([name, own]) => [own, name]));
  for (const { name, role } of graph.inputs) {
    switch (role) {
      case "boundary":
        scheduled(name, places.input());
        break;
      case "tape":
        scheduled(name, places.tape() + known(layout.offsets, name));
        break;
      case "output-grad":
        if (typeOf(graph, name).shape.length === 1) addresses.set(name, memory.lossGradient);
        else scheduled(name, places.outputGrad());
        break;
      case "param": {
        const param = known(segment.params, name);
        const own = memory.resident.param.get(param);
        const address = own === undefined || isOutside(own) ? memory.window?.rows.get(param) : own;
        if (address !== undefined) addresses.set(name, address);
        else if (!streamed) throw new Error(`${graph.name}: no place for ${param}`);
        break;
      }
      case "accumulator":
        addresses.set(
          name,
          streamed?.gradients?.get(name) ?? known(memory.resident.gradient, known(segment.params, name.slice("acc.".length))),
        );
        break;
      case "batch":
        addresses.set(name, streamed?.rowLists.has(name) ? memory.window!.rowIds : known(memory.batch, name));
        break;
      case "cache":
        addresses.set(name, known(memory.cache?.[index] ?? new Map<string, Address>(), name));
        break;
      case "segment":
        addresses.set(name, memory.segmentIndex[index]!);
        break;
      case "carried":
      case "carried-grad":
        addresses.set(name, known(memory.carried.addresses, known(carried, name)));
        break;
    }
  }
  for (const { name, role, updates } of graph.outputs) {
    switch (role) {
      case "boundary":
        scheduled(name, places.output());
        break;
      case "tape":
        scheduled(name, places.tape() + known(layout.offsets, name));
        break;
      case "input-grad":
        scheduled(name, places.inputGrad());
        break;
      case "logits":
        if (!places.logits) throw new Error(`${graph.name}: no place for the logits`);
        addresses.set(name, places.logits());
        break;
      case "loss":
        addresses.set(name, memory.loss);
        break;
      case "token-losses":
        addresses.set(name, known(memory.batch, "tokenLosses"));
        break;
      case "text-logits":
        addresses.set(name, known(memory.batch, "textLogits"));
        break;
      case "correct":
        addresses.set(name, memory.correct);
        break;
      case "carried":
        addresses.set(name, known(memory.carried.addresses, known(carried, name)));
        break;
      case "param-grad":
      case "carried-grad":
      case "state":
        addresses.set(name, known(addresses, updates!));
        break;
    }
  }
  const program = programs.of(graph);
  const workspace = program.workspace > 0 ? places.workspace() : 0;
  return {
    call: executor.bind(program, addresses, workspace, streamed?.reads ?? undefined),
    end: Math.max(end, workspace + program.workspace),
  };
}

function known<T>(map: ReadonlyMap<string, T>, name: string): T {
  const value = map.get(name);
  if (value === undefined) throw new Error(`no place for ${name}`);
  return value;
}
