import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { type OpName, opOf, OPS } from "../../src/ops/index.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { byteLength, type Graph, sameType, typeOf } from "../../src/graph/types.ts";
import { SAMPLES } from "../onnx/samples.ts";
import { runOn } from "../support/executor.ts";
import { userError } from "../hf/temp.ts";
import { boundFor, openOrt, PROVIDER } from "../support/provider.ts";
import { expectSameBits, expectWithin, f32, opGraph, relativeError, runGraph } from "../support/ops.ts";

setDefaultTimeout(120_000);

const executor = openOrt(1);
afterAll(() => executor.close());

/** Pairs [output, input] that training computes in place: gradients on their accumulators, AdamW on its state. */
function updatingPairs(name: OpName): readonly (readonly [number, number])[] {
  const { accumulates, inPlace } = opOf({ op: name });
  if (name === "AdamW") return inPlace!;
  return accumulates ? [[accumulates.output, accumulates.input]] : [];
}

describe.each(Object.keys(OPS) as OpName[])("%s on ONNX Runtime", (name) => {
  SAMPLES[name].forEach(({ attrs, inputs, bound = 1e-6 }, i) => {
    test(`sample ${i}: as on the wasm executor, relative error <= ${bound}; in place the same bits`, async () => {
      const { builder, inputs: names, outputs, feeds } = opGraph({ op: opOf({ op: name }), inputs, attrs });
      const pairs = updatingPairs(name).filter(([output, input]) => {
        return names[input] && sameType(builder.type(names[input]), builder.type(outputs[output]!));
      });
      const updates = new Map(pairs.map(([output, input]) => [output, names[input]]));
      outputs.forEach((output, j) => builder.output({ name: output, role: "boundary", updates: updates.get(j) }));
      const graph = builder.build();

      const expected = await runGraph(graph, feeds);
      const actual = runOn(executor, graph, feeds, { inPlace: false });
      for (const [output, data] of expected) {
        expectWithin(
          `${name}: ${output}`,
          relativeError(actual.get(output)!, data),
          data instanceof Float32Array ? boundFor(bound) : 0,
        );
      }
      const again = runOn(executor, graph, feeds, { inPlace: true, times: 3 });
      if (PROVIDER === "cpu") expectSameBits(`${name} in place`, [...again.values()], [...actual.values()]);
      for (const [output, data] of again)
        expectWithin(`${name} in place: ${output}`, relativeError(data, actual.get(output)!), 1e-6);
    });
  });
});

const product: Graph = {
  name: "product",
  inputs: [
    { name: "a", role: "boundary" },
    { name: "b", role: "param" },
  ],
  outputs: [{ name: "c", role: "boundary" }],
  nodes: [{ op: "Gemm", inputs: ["a", "b"], outputs: ["c"], attrs: { alpha: 1, beta: 1, transA: 0, transB: 1 } }],
  types: new Map([
    ["a", { dtype: "f32", shape: [2, 3] }],
    ["b", { dtype: "f32", shape: [2, 3] }],
    ["c", { dtype: "f32", shape: [2, 2] }],
  ]),
};

describe("the executor on ONNX Runtime", () => {
  test("memory is aligned, read back and cleared", () => {
    const address = executor.reserve(100);
    expect(address % 64).toBe(0);
    executor.write(address, Uint8Array.of(1, 2, 3));
    executor.fill(address + 3, 1, (target) => (target[0] = 4));
    expect(executor.read(address, 4)).toEqual(Uint8Array.of(1, 2, 3, 4));
    executor.zero(address + 1, 2);
    expect(executor.read(address, 4)).toEqual(Uint8Array.of(1, 0, 0, 4));
    expect(executor.read(address, 0)).toEqual(new Uint8Array());
  });

  test("one program runs with several bindings", () => {
    const program = executor.prepare(product);
    const calls = [1, 2].map((factor) => {
      const addresses = new Map(["a", "b", "c"].map((name) => [name, executor.reserve(24)]));
      const bytes = (...values: number[]) => new Uint8Array(Float32Array.from(values, (value) => factor * value).buffer);
      executor.write(addresses.get("a")!, bytes(1, 2, 3, 4, 5, 6));
      executor.write(addresses.get("b")!, bytes(1, 0, 0, 0, 1, 1));
      return { call: executor.bind(program, addresses, 0), at: addresses.get("c")! };
    });
    for (const { call } of calls) executor.run(call);
    const results = calls.map(({ at }) => [...new Float32Array(executor.read(at, 16).buffer)]);
    expect(results).toEqual([
      [1, 5, 4, 11],
      [4, 20, 16, 44],
    ]);
  });

  test("refuses a missing or misaligned address", () => {
    const program = executor.prepare(product);
    const base = executor.reserve(256);
    const addresses = new Map([
      ["a", base],
      ["b", base + 64],
    ]);
    expect(() => executor.bind(program, addresses, 0)).toThrow("bind product: no address for c");
    expect(() => executor.bind(program, new Map([...addresses, ["c", base + 132]]), 0)).toThrow("c at");
  });

  test("1 and 2 threads agree to 1e-6", () => {
    const two = openOrt(2);
    const feeds = new Map(["a", "b"].map((name, i) => [name, f32([2, 3], [1 + i, -2, 0.3, 4, 5, -6])] as const));
    const [one, other] = [executor, two].map((executor) => runOn(executor, product, feeds).get("c")!);
    expectWithin("Gemm", relativeError(one!, other!), 1e-6);
    two.close();
  });

  test("closed, it refuses what would end the process, and may be closed again", () => {
    const closed = openOrt(1);
    const program = closed.prepare(product);
    const addresses = new Map(["a", "b", "c"].map((name) => [name, closed.reserve(64)] as const));
    const call = closed.bind(program, addresses, 0);
    closed.close();
    closed.close();
    expect(() => closed.prepare(product)).toThrow("is closed");
    expect(() => closed.run(call)).toThrow("is closed");
  });

  test("the arena does not grow from run 10 to run 200", () => {
    const { attrs, inputs } = SAMPLES.AttentionGrad[0]!;
    const { builder, outputs, feeds } = opGraph({ op: opOf({ op: "AttentionGrad" }), inputs, attrs });
    for (const name of outputs) builder.output({ name, role: "boundary" });
    const totals: number[] = [];
    runOn(executor, builder.build(), feeds, { times: 200, after: () => totals.push(executor.arena().total) });
    expect(totals[9]).toBeGreaterThan(0);
    expect(totals[199]).toBe(totals[9]!);
  });
});

test("attention of 2048 tokens and its gradient need less than the scores of all pairs have bytes", () => {
  const [tokens, heads] = [2048, 8];
  const script = join(import.meta.dir, "../support/attention-memory.ts");
  const { stdout } = Bun.spawnSync([process.execPath, script, String(tokens), String(heads), "8"]);
  const { forward, backward } = JSON.parse(stdout.toString()) as { forward: number; backward: number };
  const scores = 4 * heads * tokens ** 2;
  expect(forward).toBeLessThan(0.5 * scores);
  expect(backward).toBeLessThan(0.7 * scores);
});

// The CPU's own provider has all nodes of a program, as another one may have some.
describe.each([
  ["memory of the process", false],
  ["memory that is reached by copies", true],
])("a program with nodes that a device leaves to the CPU, %s", (_, copies) => {
  const strict = createOrtExecutor({ threads: 1, strict: true, copies });
  afterAll(() => strict.close());

  test("is loaded all the same, and reads its inputs anew at each run", () => {
    expect(strict.prepare(product)).toMatchObject({ isMixed: true });
    const { attrs, inputs } = SAMPLES.SwiGLU[0]!;
    const { builder, outputs, feeds } = opGraph({ op: opOf({ op: "SwiGLU" }), inputs, attrs });
    outputs.forEach((output) => builder.output({ name: output, role: "boundary" }));
    const graph = builder.build();
    const program = strict.prepare(graph);
    const names = [...graph.inputs, ...graph.outputs].map(({ name }) => name);
    const addresses = new Map(names.map((name) => [name, strict.reserve(byteLength(typeOf(graph, name)))]));
    const call = strict.bind(program, addresses, 0);
    for (const factor of [1, 2]) {
      const scaled = new Map(
        [...feeds].map(([name, { data, ...rest }]) => [name, { ...rest, data: data.map((x) => factor * Number(x)) }]),
      );
      for (const [name, { data }] of scaled) strict.write(addresses.get(name)!, new Uint8Array((data as Float32Array).buffer));
      strict.run(call);
      const expected = runOn(executor, graph, scaled as typeof feeds);
      for (const name of outputs) {
        const bytes = strict.read(addresses.get(name)!, byteLength(typeOf(graph, name)));
        expectWithin(name, relativeError(new Float32Array(bytes.buffer), expected.get(name)!), boundFor(1e-6));
      }
    }
  });
});

// The way to a device's memory, on the CPU's.
describe("memory that is reached by copies alone", () => {
  const copying = createOrtExecutor({ threads: 1, copies: true });
  const direct = createOrtExecutor({ threads: 1 });
  afterAll(() => [copying, direct].forEach((executor) => executor.close()));

  test("is aligned, written, read back and cleared, in pieces", () => {
    const bytes = 2 ** 26 + 130;
    const address = copying.reserve(bytes);
    expect(address % 64).toBe(0);
    const data = Uint8Array.from({ length: bytes }, (_, i) => (i * 7) >> 3);
    copying.fill(address, bytes, (target) => target.set(data));
    copying.write(address + 2 ** 26 + 1, Uint8Array.of(1, 2, 3));
    data.set([1, 2, 3], 2 ** 26 + 1);
    expect(Bun.hash(copying.read(address, bytes))).toBe(Bun.hash(data));
    copying.zero(address + 5, bytes - 6);
    data.fill(0, 5, bytes - 1);
    expect(Bun.hash(copying.read(address, bytes))).toBe(Bun.hash(data));
    expect(copying.read(address, 0)).toEqual(new Uint8Array());
  });

  test("gives the same bits, and counts what programs take besides it", () => {
    const { attrs, inputs } = SAMPLES.AttentionGrad[0]!;
    const { builder, outputs, feeds } = opGraph({ op: opOf({ op: "AttentionGrad" }), inputs, attrs });
    for (const name of outputs) builder.output({ name, role: "boundary" });
    const graph = builder.build();
    const [expected, actual] = [direct, copying].map((executor) => runOn(executor, graph, feeds));
    expectSameBits("outputs", [...actual!.values()], [...expected!.values()]);
    expect(copying.temporary.bytes).toBeGreaterThan(0);
    expect(copying.temporary.bytes).toBe(copying.arena().total - copying.reserved);
  });

  test("memory that the system does not have gives one clear error", () => {
    expect(userError(() => copying.reserve(2 ** 50))).toContain(`cannot reserve ${2 ** 50} bytes`);
  });
});
