import { afterAll, expect, setDefaultTimeout, test } from "bun:test";
import { programsOf } from "../../src/graph/segment.ts";
import { buildSegments } from "../../src/models/chain/segments.ts";
import { createArena } from "../../src/ort/arena.ts";
import { openEnvironment } from "../../src/ort/environment.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import { cString, created } from "../../src/ort/library.ts";
import { hostMemory } from "../../src/ort/memory.ts";
import { measureTemporary, settle } from "../../src/runtime/temporary.ts";
import { loadConfig } from "../../src/hf/config/config.ts";
import { modelFolder } from "./golden.ts";
import { PROVIDER } from "./provider.ts";

setDefaultTimeout(120_000);

const executor = createOrtExecutor({ threads: 1 });
// On the CPU, memory that is treated like a device's.
const device = createOrtExecutor({ threads: 1, provider: PROVIDER, copies: PROVIDER === "cpu" });
afterAll(() => [executor, device].forEach((each) => each.close()));

const config = loadConfig(modelFolder("qwen3"));
const segments = buildSegments(config, {
  tokens: 120,
  tuning: { method: "full" },
  weightType: () => "f32",
  selective: { count: 2 },
});
const graphs = [...new Set(segments.map(({ model }) => model))].flatMap((model) => programsOf(model).map(([, graph]) => graph));

// All before anything is measured: what a session has for good lies in the arena too.
const prepared = new Map([executor, device].map((on) => [on, graphs.map((graph) => on.prepare(graph))]));

/** More than any input or output has. */
const HALF = 2 ** 21;

test.each([
  ["memory of the process", executor],
  ["memory of a device, in the arena itself", device],
])("%s: what each program takes alone is what all take in any order, within 10 %", (_, on) => {
  const programs = prepared.get(on)!;
  const bytes = measureTemporary(on, programs);
  expect(bytes).toBeGreaterThan(0);
  expect(on.temporary.bytes).toBe(bytes);
  const { reserved } = on;
  const [inputs, outputs] = [on.reserve(HALF), on.reserve(HALF)];
  on.zero(inputs, HALF);
  const calls = programs.map((program) => {
    const all = (values: readonly { readonly name: string }[], at: number) => values.map(({ name }) => [name, at] as const);
    return on.bind(program, new Map([...all(program.graph.inputs, inputs), ...all(program.graph.outputs, outputs)]), 0);
  });
  for (const order of [calls, calls.toReversed(), calls]) for (const call of order) on.run(call);
  expect(on.temporary.bytes).toBeLessThan(1.1 * bytes);
  // The next start has it at once, and gives back what it does not need.
  expect(Math.abs(settle(on.temporary, bytes) / bytes - 1)).toBeLessThan(0.01);
  on.run(calls[0]!);
  expect(Math.abs(on.temporary.bytes / bytes - 1)).toBeLessThan(0.01);
  expect(on.reserved - reserved).toBe(2 * HALF);
});

test("grown bit by bit it would be more; what was measured is the most of any program", () => {
  const programs = prepared.get(executor)!;
  const most = measureTemporary(executor, programs);
  const each = programs.map((program) => measureTemporary(executor, [program]));
  expect(most).toBeGreaterThanOrEqual(Math.max(...each));
  expect(most).toBeLessThan(1.1 * Math.max(...each));
  expect(each.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThan(2 * most);
});

test("a provider that cannot give memory back keeps what it has, and takes no piece besides", () => {
  const environment = openEnvironment();
  const { api } = environment;
  const sessionOptions = created((out) => api.CreateSessionOptions(out));
  api.AddSessionConfigEntry(sessionOptions, cString("session.use_env_allocators"), cString("1"));
  const memory = hostMemory(environment);
  const arena = createArena(environment, { sessionOptions, memory, device: "gpu:0" });
  measureTemporary(executor, prepared.get(executor)!);
  const { bytes } = arena;
  expect(bytes).toBeGreaterThan(2 ** 20);
  arena.reset(2 * bytes);
  expect(arena.bytes).toBe(bytes);
  arena.close();
  // One that has to is not passed over.
  const needed = createArena(environment, { sessionOptions, memory, device: "gpu:0", mustShrink: true });
  expect(() => needed.reset(0)).toThrow("ONNX Runtime, RunWithBinding");
  needed.close();
  api.ReleaseSessionOptions(sessionOptions);
});
