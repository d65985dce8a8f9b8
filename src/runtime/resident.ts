import type { Segment } from "../graph/segment.ts";
import { accumulatorOf, programsOf } from "../graph/segment.ts";
import { byteLength, elements, formatType, sameType, type TensorType } from "../graph/types.ts";
import { type Address, align, ALIGNMENT, type Executor } from "./executor.ts";
import { OUTSIDE } from "./streaming/outside.ts";

/** A parameter of the chain, under its checkpoint or adapter name. */
export interface ParamInfo {
  readonly name: string;
  readonly type: TensorType;
  readonly trainable: boolean;
}

/** All parameters of the segments, each once (tied weights share a name), in chain order. */
export function collectParams(segments: readonly Segment[]): ParamInfo[] {
  const params = new Map<string, ParamInfo>();
  for (const segment of segments) {
    const graphs = programsOf(segment.model).map(([, graph]) => graph);
    for (const [input, name] of segment.params) {
      const type = graphs.flatMap((graph) => graph.types.get(input) ?? [])[0];
      if (!type) continue;
      const trainable = graphs.some((graph) => graph.types.has(accumulatorOf(input)));
      const known = params.get(name);
      if (known && !sameType(known.type, type)) {
        throw new Error(`parameter ${name} has two types: ${formatType(known.type)} and ${formatType(type)}`);
      }
      params.set(name, { name, type, trainable: trainable || (known?.trainable ?? false) });
    }
  }
  return [...params.values()];
}

/** Where everything that outlives a step is: weights, and the trainable parameters' gradients. */
export interface Resident {
  readonly params: readonly ParamInfo[];
  readonly param: ReadonlyMap<string, Address>;
  readonly gradient: ReadonlyMap<string, Address>;
  readonly trainable: FlatParams;
  readonly bytes: ResidentBytes;
}

/** The trainable parameters and their gradients, laid out alike in two flat f32 arrays. */
export interface FlatParams {
  readonly param: Address;
  readonly gradient: Address;
  readonly layout: FlatLayout;
}

export interface FlatLayout {
  readonly parts: readonly FlatPart[];
  /** Elements in all, with the space between parameters, which stays zero. */
  readonly size: number;
}

export interface FlatPart {
  readonly param: ParamInfo;
  /** The place of the first element, in elements. */
  readonly begin: number;
}

/** Lays parameters out group by group; each takes a multiple of a cache line, and of its group's number of elements. */
export function flatLayout(
  groups: readonly { readonly params: readonly ParamInfo[]; readonly multipleOf?: number }[],
): FlatLayout {
  let size = 0;
  const parts = groups.flatMap(({ params, multipleOf = 1 }) =>
    params.map((param): FlatPart => {
      const begin = size;
      size += align(elements(param.type.shape), Math.max(ALIGNMENT / 4, multipleOf));
      return { param, begin };
    }),
  );
  return { parts, size };
}

export interface ResidentBytes {
  readonly frozen: number;
  readonly trainable: number;
  readonly gradients: number;
  readonly optimizer: number;
}

/** Where trained state lies that is outside: addresses of the flat arrays, and the bytes of all. */
export interface OutsidePlaces {
  readonly param: Address;
  readonly gradient: Address;
  readonly state: Address;
  readonly bytes: number;
}

/** Lays trained state out as it lies in memory: parameters, gradients, the optimizer's state. */
export function outsidePlaces(params: readonly ParamInfo[], optimizer: OptimizerMemory | null): OutsidePlaces {
  const { trainable, gradients, optimizer: state } = residentBytes(params, optimizer);
  const gradient = OUTSIDE + align(trainable);
  const begin = gradient + align(gradients);
  return { param: OUTSIDE, gradient, state: begin, bytes: begin + align(state) - OUTSIDE };
}

/** Describes what an optimizer asks for: an order of the trainable parameters, and memory for its state. */
export interface OptimizerMemory {
  readonly layout: FlatLayout;
  readonly bytes: number;
}

const NONE: ReadonlySet<string> = new Set();

/** Sizes before anything is reserved, so that a plan can be shown or refused first. */
export function residentBytes(
  params: readonly ParamInfo[],
  optimizer: OptimizerMemory | null,
  streamed: ReadonlySet<string> = NONE,
): ResidentBytes {
  const frozen = params
    .filter(({ trainable, name }) => !trainable && !streamed.has(name))
    .reduce((bytes, param) => bytes + align(byteLength(param.type)), 0);
  const trainable = 4 * layoutOf(params, optimizer).size;
  return { frozen, trainable, gradients: trainable, optimizer: optimizer?.bytes ?? 0 };
}

function layoutOf(params: readonly ParamInfo[], optimizer: OptimizerMemory | null): FlatLayout {
  return optimizer?.layout ?? flatLayout([{ params: params.filter((param) => param.trainable) }]);
}

/**
 * Reserves the resident memory but for the optimizer's state. Gradients are zero; weights are to be loaded into `param`.
 * @param optimizer null where nothing is updated (a single step, inference)
 * @param streamed frozen parameters that get no place: they come into a window when they are read
 * @param outside places of what is trained, and its gradients, where they take no memory
 */
export function reserveResident(
  executor: Executor,
  segments: readonly Segment[],
  optimizer: OptimizerMemory | null = null,
  streamed: ReadonlySet<string> = NONE,
  outside: OutsidePlaces | null = null,
): Resident {
  const params = collectParams(segments);
  const bytes = residentBytes(params, optimizer, streamed);
  const layout = layoutOf(params, optimizer);
  const param = new Map<string, Address>();
  for (const frozen of params.filter(({ trainable, name }) => !trainable && !streamed.has(name)))
    param.set(frozen.name, executor.reserve(byteLength(frozen.type)));
  const flat = (size: number) => {
    const address = executor.reserve(size);
    executor.zero(address, size);
    return address;
  };
  const places = outside ?? { param: flat(bytes.trainable), gradient: flat(bytes.gradients) };
  const trainable: FlatParams = { param: places.param, gradient: places.gradient, layout };
  const gradient = new Map<string, Address>();
  for (const part of layout.parts) {
    param.set(part.param.name, trainable.param + 4 * part.begin);
    gradient.set(part.param.name, trainable.gradient + 4 * part.begin);
  }
  return { params, param, gradient, trainable, bytes };
}

/** Copies out a trainable parameter, or its gradient. */
export function readTensor(executor: Executor, address: Address, type: TensorType): Float32Array {
  const bytes = executor.read(address, byteLength(type));
  return new Float32Array(bytes.buffer, bytes.byteOffset, elements(type.shape));
}
