/**
 * Testing one operator.
 *
 *     await checkForward({ op: SwiGLU, inputs: [random(rng, [7, 13]), random(rng, [7, 13])], attrs: {}, reference, bound: 1e-6 });
 *     await checkGradient({ op: SwiGLU, inputs, attrs: {}, reference, wrt: [0, 1], bound: 1e-5 });
 *
 * `reference` is the plain float64 definition of the operator. Every run on the kernels has its memory filled with NaN
 * first, so that reading what was never written shows, and guard bytes around each value, so that writing outside
 * shows. Every result is computed with 1 and 2 threads and must be the same bit for bit.
 */
import { expect } from "bun:test";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { type Attrs, byteLength, elements, type Graph, type Shape, type TensorType } from "../../src/graph/types.ts";
import { type DType } from "../../src/base/dtype.ts";
import { OPS } from "../../src/ops/index.ts";
import { type GradientContext, hasInput, type OpDef } from "../../src/ops/types.ts";
import { align, type Address } from "../../src/runtime/executor.ts";
import { createWasmExecutor, type WasmExecutor } from "../../src/wasm/executor.ts";

/** An array of values: f32, i32, the bits of bf16 or f16, or codes. */
export type Data = Float32Array | Int32Array | Uint16Array | Int8Array | Uint8Array;

export interface TestTensor {
  readonly dtype: "f32" | "i32" | "bf16" | "f16" | "i8" | "u8";
  readonly shape: Shape;
  readonly data: Data;
}

/** The operator in float64: absent inputs are empty arrays, integers are exact. */
export type Reference = (inputs: Float64Array[]) => ArrayLike<number>[];

// --- values ---------------------------------------------------------------------------------------------------------

/** Uniform numbers in [0, 1) from a seed (mulberry32). */
export function generator(seed: number): () => number {
  let state = seed | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normally distributed f32 (Box-Muller). */
export function random(rng: () => number, shape: Shape, deviation = 1, mean = 0): TestTensor {
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - rng())) * Math.cos(2 * Math.PI * rng());
  return f32(
    shape,
    Array.from({ length: elements(shape) }, () => mean + deviation * normal()),
  );
}

export const f32 = (shape: Shape, data: ArrayLike<number>): TestTensor => ({
  dtype: "f32",
  shape,
  data: Float32Array.from(data),
});
export const i32 = (shape: Shape, data: ArrayLike<number>): TestTensor => ({ dtype: "i32", shape, data: Int32Array.from(data) });

/** The same values rounded to a half type. */
export function half(tensor: TestTensor, dtype: "bf16" | "f16"): TestTensor {
  const values = tensor.data as Float32Array;
  const bits = new Uint32Array(values.slice().buffer);
  if (dtype === "bf16") {
    // Round to nearest, ties to even.
    const data = Uint16Array.from(bits, (word) => (word + 0x7fff + ((word >>> 16) & 1)) >>> 16);
    return { dtype, shape: tensor.shape, data };
  }
  const data = new Uint16Array(Float16Array.from(values).buffer);
  return { dtype, shape: tensor.shape, data };
}

/** The values of a tensor, exactly. */
export function toFloat64(tensor: TestTensor | null): Float64Array {
  if (!tensor) return new Float64Array(0);
  if (tensor.dtype === "bf16") {
    return Float64Array.from(new Float32Array(Uint32Array.from(tensor.data, (bits) => bits << 16).buffer));
  }
  if (tensor.dtype === "f16") return Float64Array.from(new Float16Array(tensor.data.slice().buffer as ArrayBuffer));
  return Float64Array.from(tensor.data);
}

/** Norm-wise relative error |actual - expected| / |expected| (the absolute one if `expected` is zero). */
export function relativeError(actual: ArrayLike<number>, expected: ArrayLike<number>): number {
  if (actual.length !== expected.length) throw new Error(`${actual.length} values, expected ${expected.length}`);
  let difference = 0;
  let norm = 0;
  for (let i = 0; i < expected.length; i++) {
    difference += (actual[i]! - expected[i]!) ** 2;
    norm += expected[i]! ** 2;
  }
  return Math.sqrt(norm === 0 ? difference : difference / norm);
}

// --- running graphs -------------------------------------------------------------------------------------------------

const executors = new Map<number, Promise<Arena>>();

/** An executor whose memory is reused from run to run. */
interface Arena {
  readonly executor: WasmExecutor;
  base: Address;
  bytes: number;
}

/** The executor of all tests with this many threads. */
export async function wasmExecutor(threads = 1): Promise<WasmExecutor> {
  return (await arena(threads)).executor;
}

function arena(threads: number): Promise<Arena> {
  let shared = executors.get(threads);
  if (!shared) {
    shared = createWasmExecutor({ threads }).then((executor) => ({ executor, base: 0, bytes: 0 }));
    executors.set(threads, shared);
  }
  return shared;
}

const GUARD_BYTES = 64;
/** Addresses below the modules' data; see asconfig.json. */
const NULL_BYTES = 1024;
const GUARD = new Uint8Array(GUARD_BYTES).fill(0xa5);
/** Bytes that make f32 values NaN, i32 values absurd and halves NaN. */
const POISON = 0xff;

/**
 * Runs a graph on the kernels. `feeds` has a tensor for every graph input; the result has every graph output.
 * `shared` maps an output to the input whose memory it is to use, as if it were computed in place.
 */
export async function runGraph(
  graph: Graph,
  feeds: ReadonlyMap<string, TestTensor>,
  options: { readonly threads?: number; readonly shared?: ReadonlyMap<string, string> } = {},
): Promise<Map<string, Data>> {
  const own = await arena(options.threads ?? 1);
  const { executor } = own;
  const program = executor.prepare(graph);
  const values = new Set([...graph.inputs, ...graph.outputs].map((value) => value.name));
  const typeOf = (name: string): TensorType => graph.types.get(name)!;

  const needed = [program.workspace, ...[...values].map((name) => byteLength(typeOf(name)))];
  const total = needed.reduce((sum, bytes) => sum + align(bytes) + 2 * GUARD_BYTES, 0);
  if (total > own.bytes) {
    own.bytes = Math.max(total, 2 * own.bytes, 1 << 22);
    own.base = executor.reserve(own.bytes);
  }
  executor.write(own.base, new Uint8Array(total).fill(POISON));

  let top = own.base;
  const guards: { readonly what: string; readonly before: Address; readonly after: Address }[] = [];
  const place = (what: string, bytes: number): Address => {
    const address = top + GUARD_BYTES;
    guards.push({ what, before: top, after: address + bytes });
    executor.write(top, GUARD);
    executor.write(address + bytes, GUARD);
    top = address + align(bytes + GUARD_BYTES);
    return address;
  };
  const workspace = place("the workspace", program.workspace);
  const addresses = new Map<string, Address>();
  for (const name of values) {
    const target = options.shared?.get(name);
    addresses.set(name, target === undefined ? place(name, byteLength(typeOf(name))) : addresses.get(target)!);
  }
  for (const { name } of graph.inputs) {
    const feed = feeds.get(name);
    if (!feed) throw new Error(`no value for input ${name}`);
    executor.write(addresses.get(name)!, new Uint8Array(feed.data.buffer, feed.data.byteOffset, feed.data.byteLength));
  }
  executor.run(executor.bind(program, addresses, workspace));
  // Nothing is there but what a null pointer would write, over the modules' own data soon.
  if (executor.read(0, NULL_BYTES).some((byte) => byte !== 0)) throw new Error(`${graph.name}: written to a null pointer`);
  for (const { what, before, after } of guards) {
    for (const address of [before, after]) {
      if (executor.read(address, GUARD_BYTES).some((byte) => byte !== GUARD[0]))
        throw new Error(`${graph.name}: written outside of ${what}`);
    }
  }
  return new Map(
    graph.outputs.map(({ name }) => [
      name,
      dataOf(typeOf(name).dtype, executor.read(addresses.get(name)!, byteLength(typeOf(name)))),
    ]),
  );
}

/** The values that some bytes are; the bits of halves. */
export function dataOf(dtype: DType, bytes: Uint8Array): Data {
  const buffer = bytes.slice().buffer as ArrayBuffer;
  if (dtype === "f32") return new Float32Array(buffer);
  if (dtype === "bf16" || dtype === "f16") return new Uint16Array(buffer);
  if (dtype === "u8") return new Uint8Array(buffer);
  if (dtype === "i8") return new Int8Array(buffer);
  return new Int32Array(buffer);
}

// --- one operator ---------------------------------------------------------------------------------------------------

export interface OpCase<A extends Attrs> {
  readonly op: OpDef<A>;
  /** `null` is an absent optional input. A half tensor reaches the operator through a `Cast`. */
  readonly inputs: readonly (TestTensor | null)[];
  readonly attrs: A;
}

const ONNX_FLOAT = 1;

export interface OpGraph {
  readonly builder: GraphBuilder;
  /** Names of the graph inputs, `""` where absent. */
  readonly inputs: readonly string[];
  /** Names of the operator's inputs: casts of the graph inputs where those are halves. */
  readonly operands: readonly string[];
  readonly outputs: readonly string[];
  readonly feeds: Map<string, TestTensor>;
}

export function opGraph<A extends Attrs>({ op, inputs, attrs }: OpCase<A>): OpGraph {
  const builder = new GraphBuilder(op.name);
  const feeds = new Map<string, TestTensor>();
  const names = inputs.map((tensor, i) => {
    if (!tensor) return "";
    const name = builder.input(`in${i}`, "boundary", { dtype: tensor.dtype, shape: tensor.shape });
    feeds.set(name, tensor);
    return name;
  });
  const operands = names.map((name, i) => {
    const dtype = inputs[i]?.dtype;
    const isHalf = dtype === "bf16" || dtype === "f16";
    return isHalf && hasInput(op.halfInputs, i)
      ? builder.value((OPS as Record<string, OpDef<any>>)["Cast"]!, [name], { to: ONNX_FLOAT })
      : name;
  });
  return { builder, inputs: names, operands, outputs: builder.node(op, operands, attrs, "out"), feeds };
}

/** Outputs of one operator. `outputs` picks some of them: the others count as unused. `inPlace` is a pair of `OpDef.inPlace`. */
export async function runWasm<A extends Attrs>(
  op: OpDef<A>,
  inputs: readonly (TestTensor | null)[],
  attrs: A,
  options: {
    readonly threads?: number;
    readonly outputs?: readonly number[];
    readonly inPlace?: readonly [output: number, input: number];
  } = {},
): Promise<Data[]> {
  const { builder, inputs: names, outputs, feeds } = opGraph({ op, inputs, attrs });
  const wanted = outputs.filter((_, i) => options.outputs?.includes(i) ?? true);
  for (const name of wanted) builder.output({ name, role: "boundary" });
  const pair = options.inPlace;
  const shared = pair ? new Map([[outputs[pair[0]]!, names[pair[1]]!]]) : undefined;
  const results = await runGraph(builder.build(), feeds, { threads: options.threads, shared });
  return wanted.map((name) => results.get(name)!);
}

/**
 * Checks the kernels of an operator against its definition: each floating-point output within `bound` (norm-wise
 * relative error), integers exactly; bit-identical with 1 and 2 threads, in place wherever the operator allows it,
 * and for each output wanted alone. Returns the outputs.
 */
export async function checkForward<A extends Attrs>(
  options: OpCase<A> & { readonly reference: Reference; readonly bound: number },
): Promise<Data[]> {
  const { op, inputs, attrs, reference, bound } = options;
  const outputs = await runWasm(op, inputs, attrs);
  const expected = reference(inputs.map(toFloat64));
  outputs.forEach((output, i) => {
    if (output instanceof Float32Array) expectWithin(`${op.name}: output ${i}`, relativeError(output, expected[i]!), bound);
    else expect(Array.from(output)).toEqual(Array.from(expected[i]!));
  });
  expectSameBits(`${op.name} with 2 threads`, await runWasm(op, inputs, attrs, { threads: 2 }), outputs);
  for (const pair of inPlacePairs(op)) {
    const [output, input] = pair;
    const tensor = inputs[input];
    if (!tensor || output >= outputs.length || tensor.data.byteLength !== outputs[output]!.byteLength) continue;
    for (const threads of [1, 2]) {
      const inPlace = await runWasm(op, inputs, attrs, { threads, inPlace: pair });
      expectSameBits(`${op.name} with output ${output} in the place of input ${input}, ${threads} threads`, inPlace, outputs);
    }
  }
  if (outputs.length > 1) {
    for (let i = 0; i < outputs.length; i++) {
      expectSameBits(`${op.name} with output ${i} alone`, await runWasm(op, inputs, attrs, { outputs: [i] }), [outputs[i]!]);
    }
  }
  return outputs;
}

function inPlacePairs<A extends Attrs>(op: OpDef<A>): (readonly [number, number])[] {
  return [...(op.inPlace ?? []), ...(op.accumulates ? [[op.accumulates.output, op.accumulates.input] as const] : [])];
}

/**
 * Checks an operator's gradient rule: the gradients of a random linear functional of its outputs, computed by the
 * kernels, against central differences of the float64 definition, within `bound` (norm-wise relative error per input);
 * bit-identical with 1 and 2 threads. Inputs of `wrt` are f32. `samples` limits the elements checked per input.
 */
export async function checkGradient<A extends Attrs>(
  options: OpCase<A> & {
    readonly reference: Reference;
    readonly wrt: readonly number[];
    readonly bound: number;
    readonly samples?: number;
    readonly seed?: number;
  },
): Promise<void> {
  const { op, inputs, wrt, reference, bound, samples = Infinity, seed = 1 } = options;
  const rng = generator(seed);
  const { builder, operands, outputs, feeds } = opGraph(options);
  const cotangents = outputs.map((output, i) => {
    const type = builder.type(output);
    if (type.dtype !== "f32") return null;
    const tensor = random(rng, type.shape);
    feeds.set(builder.input(`d.out${i}`, "output-grad", type), tensor);
    return tensor;
  });
  const { gradient: rule } = op;
  if (typeof rule !== "function") throw new Error(`${op.name} is not differentiable: ${rule.notDifferentiable}`);
  const context: GradientContext<A> = {
    builder,
    node: { op: op.name, inputs: operands, outputs, attrs: options.attrs },
    attrs: options.attrs,
    input: (i) => operands[i] ?? "",
    output: (i) => outputs[i]!,
    grad: (i) => (cotangents[i] ? `d.out${i}` : null),
    needs: (i) => wrt.includes(i),
  };
  const gradients = rule(context);
  const wanted = wrt.map((i) => gradients[i] ?? null);
  for (const name of new Set(wanted)) {
    if (name !== null) builder.output({ name, role: "input-grad" });
  }
  const graph = builder.build();
  const results = await runGraph(graph, feeds);
  const again = await runGraph(graph, feeds, { threads: 2 });
  expectSameBits(`gradient of ${op.name} with 2 threads`, [...again.values()], [...results.values()]);

  const point = inputs.map(toFloat64);
  const functional = (): number => {
    const values = reference(point);
    let sum = 0;
    cotangents.forEach((cotangent, i) => {
      if (cotangent) for (let j = 0; j < cotangent.data.length; j++) sum += cotangent.data[j]! * values[i]![j]!;
    });
    return sum;
  };
  wrt.forEach((input, w) => {
    const x = point[input]!;
    const indices = sample(rng, x.length, samples);
    const expected = indices.map((i) => {
      const value = x[i]!;
      const step = 1e-5 * Math.max(1, Math.abs(value));
      x[i] = value + step;
      const above = functional();
      x[i] = value - step;
      const below = functional();
      x[i] = value;
      return (above - below) / (2 * step);
    });
    const name = wanted[w];
    const actual = name ? results.get(name)! : new Float32Array(x.length);
    expect(actual.length).toBe(x.length);
    const error = relativeError(
      indices.map((i) => actual[i]!),
      expected,
    );
    expectWithin(`${op.name}: gradient of input ${input}`, error, bound);
  });
}

/** `count` different indices below `length`, or all of them. */
function sample(rng: () => number, length: number, count: number): number[] {
  const indices = Array.from({ length }, (_, i) => i);
  if (count >= length) return indices;
  for (let i = 0; i < count; i++) {
    const j = i + Math.floor(rng() * (length - i));
    [indices[i], indices[j]] = [indices[j]!, indices[i]!];
  }
  return indices.slice(0, count);
}

// --- expectations ---------------------------------------------------------------------------------------------------

/** Fails also where the error is NaN. */
export function expectWithin(what: string, error: number, bound: number): void {
  if (!(error <= bound)) throw new Error(`${what}: relative error ${error.toExponential(2)}, bound ${bound.toExponential(2)}`);
}

/** Equal bit for bit: NaN payloads and the sign of zero included. */
export function expectSameBits(what: string, actual: readonly Data[], expected: readonly Data[]): void {
  expect(actual.length).toBe(expected.length);
  actual.forEach((array, i) => {
    const other = expected[i]!;
    const [a, b] = [
      new Uint8Array(array.buffer, array.byteOffset, array.byteLength),
      new Uint8Array(other.buffer, other.byteOffset, other.byteLength),
    ];
    if (!Buffer.from(a).equals(Buffer.from(b))) {
      const at = array.findIndex((value, j) => !Object.is(value, other[j]));
      throw new Error(`${what}: output ${i} differs at element ${at}: ${array[at]} and not ${other[at]}`);
    }
  });
}
