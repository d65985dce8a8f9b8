import type { Segment } from "../graph/segment.ts";
import { accumulatorOf, programsOf } from "../graph/segment.ts";
import { byteLength, elements, formatType, sameType, type TensorType } from "../graph/types.ts";
import { type Address, align, type Executor } from "./executor.ts";

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

/** Where everything that outlives a step is: weights, and the trainable parameters' gradients and optimizer state. */
export interface Resident {
  readonly params: readonly ParamInfo[];
  readonly param: ReadonlyMap<string, Address>;
  readonly gradient: ReadonlyMap<string, Address>;
  /** The trainable parameters, laid out alike in four flat f32 arrays, weight-decayed ones first. */
  readonly trainable: FlatState;
  readonly bytes: ResidentBytes;
}

export interface FlatState {
  readonly param: Address;
  readonly gradient: Address;
  readonly moment1: Address;
  readonly moment2: Address;
  /** Elements in all (padding included, which stays zero), and of the part that has weight decay. */
  readonly size: number;
  readonly decayed: number;
}

export interface ResidentBytes {
  readonly frozen: number;
  readonly trainable: number;
  readonly gradients: number;
  readonly optimizer: number;
}

export interface ResidentOptions {
  /** Without an optimizer (a single step, inference) no moments are reserved. */
  readonly optimizer: boolean;
  /** Which trainable parameters have weight decay. */
  readonly decays: (param: ParamInfo) => boolean;
}

/** Sizes before anything is reserved, so that a plan can be shown or refused first. */
export function residentBytes(params: readonly ParamInfo[], optimizer: boolean): ResidentBytes {
  const sum = (trainable: boolean) =>
    params.filter((param) => param.trainable === trainable).reduce((bytes, param) => bytes + align(byteLength(param.type)), 0);
  const trainable = sum(true);
  return { frozen: sum(false), trainable, gradients: trainable, optimizer: optimizer ? 2 * trainable : 0 };
}

/** Reserves the resident memory. Gradients and moments are zero; weights are to be loaded into `param`. */
export function reserveResident(executor: Executor, segments: readonly Segment[], options: ResidentOptions): Resident {
  const params = collectParams(segments);
  const bytes = residentBytes(params, options.optimizer);
  const param = new Map<string, Address>();
  for (const frozen of params.filter((info) => !info.trainable))
    param.set(frozen.name, executor.reserve(byteLength(frozen.type)));

  const decayed = params.filter((info) => info.trainable && options.decays(info));
  const plain = params.filter((info) => info.trainable && !options.decays(info));
  const flat = (size: number) => {
    const address = executor.reserve(size);
    executor.zero(address, size);
    return address;
  };
  const trainable: FlatState = {
    param: flat(bytes.trainable),
    gradient: flat(bytes.gradients),
    moment1: options.optimizer ? flat(bytes.trainable) : 0,
    moment2: options.optimizer ? flat(bytes.trainable) : 0,
    size: bytes.trainable / 4,
    decayed: decayed.reduce((size, info) => size + align(byteLength(info.type)) / 4, 0),
  };
  const gradient = new Map<string, Address>();
  let offset = 0;
  for (const info of [...decayed, ...plain]) {
    param.set(info.name, trainable.param + offset);
    gradient.set(info.name, trainable.gradient + offset);
    offset += align(byteLength(info.type));
  }
  return { params, param, gradient, trainable, bytes };
}

/** Copies out a trainable parameter, or its gradient. */
export function readTensor(executor: Executor, address: Address, type: TensorType): Float32Array {
  const bytes = executor.read(address, byteLength(type));
  return new Float32Array(bytes.buffer, bytes.byteOffset, elements(type.shape));
}
