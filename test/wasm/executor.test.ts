import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { UserError } from "../../src/base/errors.ts";
import { GraphBuilder } from "../../src/graph/builder.ts";
import { byteLength, type Graph, type TensorType } from "../../src/graph/types.ts";
import { Add } from "../../src/ops/add.ts";
import { SwiGLU } from "../../src/ops/swiglu.ts";
import { ALIGNMENT, type Address, type Call, type Executor, type Program } from "../../src/runtime/executor.ts";
import { createWasmExecutor, type WasmExecutor, type WasmExecutorOptions } from "../../src/wasm/executor.ts";
import { f32, generator, random, type Data } from "../support/ops.ts";
import { collectGarbage } from "../support/garbage.ts";

setDefaultTimeout(120_000);

const open: WasmExecutor[] = [];
async function create(options: WasmExecutorOptions): Promise<WasmExecutor> {
  const executor = await createWasmExecutor(options);
  open.push(executor);
  return executor;
}
afterEach(() => open.splice(0).forEach((executor) => executor.close()));

/** out = SwiGLU applied `depth` times, x <- SwiGLU(x, b); every third result is kept alive by a sum at the end. */
function chain(shape: readonly number[], depth: number): Graph {
  const builder = new GraphBuilder("chain");
  const type: TensorType = { dtype: "f32", shape };
  let x = builder.input("a", "boundary", type);
  const b = builder.input("b", "boundary", type);
  const kept: string[] = [];
  for (let i = 0; i < depth; i++) {
    x = builder.value(SwiGLU, [x, b], {});
    if (i % 3 === 0) kept.push(x);
  }
  for (const value of kept) x = builder.value(Add, [x, value], {});
  builder.output({ name: x, role: "boundary" });
  return builder.build();
}

interface Bound {
  readonly call: Call;
  readonly addresses: Map<string, Address>;
  readonly output: Address;
}

function bindAnywhere(executor: Executor, program: Program): Bound {
  const { graph } = program;
  const addresses = new Map<string, Address>();
  for (const { name } of [...graph.inputs, ...graph.outputs])
    addresses.set(name, executor.reserve(byteLength(graph.types.get(name)!)));
  const call = executor.bind(program, addresses, executor.reserve(program.workspace));
  return { call, addresses, output: addresses.get(graph.outputs[0]!.name)! };
}

const bytesOf = (data: Data): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

describe("wasm executor", () => {
  test("1, 2 and 3 threads give the same bits", async () => {
    const shape = [61, 37];
    const rng = generator(1);
    const [a, b] = [random(rng, shape), random(rng, shape, 1, 1)];
    const results: Uint8Array[] = [];
    for (const threads of [1, 2, 3]) {
      const executor = await create({ threads });
      const { call, addresses, output } = bindAnywhere(executor, executor.prepare(chain(shape, 20)));
      executor.write(addresses.get("a")!, bytesOf(a.data));
      executor.write(addresses.get("b")!, bytesOf(b.data));
      for (let repeat = 0; repeat < 20; repeat++) {
        executor.zero(output, a.data.byteLength);
        executor.run(call);
        results.push(executor.read(output, a.data.byteLength));
      }
    }
    expect(results[0]!.some((byte) => byte !== 0)).toBe(true);
    for (const result of results) expect(Buffer.from(result).equals(Buffer.from(results[0]!))).toBe(true);
  });

  test("programs of different lengths in turn: a thread that is late reads nothing of the program before", async () => {
    const executor = await create({ threads: 2 });
    const calls = [1, 7, 2, 30, 3].map((depth) => bindAnywhere(executor, executor.prepare(chain([5, 9], depth))));
    const rng = generator(2);
    for (const { addresses } of calls) {
      for (const name of ["a", "b"]) executor.write(addresses.get(name)!, bytesOf(random(rng, [5, 9]).data));
    }
    const expected = calls.map(({ call, output }) => {
      executor.run(call);
      return executor.read(output, 180);
    });
    for (let repeat = 0; repeat < 300; repeat++) {
      calls.forEach(({ call, output }, i) => {
        executor.zero(output, 180);
        executor.run(call);
        expect(Buffer.from(executor.read(output, 180)).equals(Buffer.from(expected[i]!))).toBe(true);
      });
    }
  });

  test("a program without commands returns its inputs", async () => {
    const executor = await create({ threads: 2 });
    const builder = new GraphBuilder("nothing");
    builder.output({ name: builder.input("x", "boundary", { dtype: "f32", shape: [4] }), role: "boundary" });
    const { call, output } = bindAnywhere(executor, executor.prepare(builder.build()));
    executor.write(output, bytesOf(f32([4], [1, 2, 3, 4]).data));
    executor.run(call);
    expect([...new Float32Array(executor.read(output, 16).buffer)]).toEqual([1, 2, 3, 4]);
  });

  test("an output without memory of its own is copied there", async () => {
    const executor = await create({ threads: 2 });
    const builder = new GraphBuilder("late read");
    const type: TensorType = { dtype: "f32", shape: [3] };
    const acc = builder.input("acc", "accumulator", type);
    const x = builder.input("x", "boundary", type);
    const sum = builder.value(Add, [acc, x], {}, "sum");
    const late = builder.value(Add, [acc, acc], {}, "late");
    builder.output({ name: sum, role: "param-grad", updates: acc });
    builder.output({ name: late, role: "boundary" });
    const program = executor.prepare(builder.build());
    const [accAt, xAt, lateAt] = [executor.reserve(12), executor.reserve(12), executor.reserve(12)];
    const addresses = new Map([
      [acc, accAt],
      [sum, accAt],
      [x, xAt],
      [late, lateAt],
    ]);
    executor.write(accAt, bytesOf(f32([3], [1, 2, 3]).data));
    executor.write(xAt, bytesOf(f32([3], [10, 20, 30]).data));
    executor.run(executor.bind(program, addresses, executor.reserve(program.workspace)));
    expect([...new Float32Array(executor.read(accAt, 12).buffer)]).toEqual([11, 22, 33]);
    expect([...new Float32Array(executor.read(lateAt, 12).buffer)]).toEqual([2, 4, 6]);
  });

  test("memory grows: contents stay, every thread sees it, addresses are aligned, a run reserves nothing", async () => {
    const executor = await create({ threads: 2 });
    const program = executor.prepare(chain([100, 100], 2));
    const first = executor.reserve(5);
    executor.write(first, new Uint8Array([1, 2, 3, 4, 5]));
    for (let i = 0; i < 20; i++) expect(executor.reserve(3_000_001) % ALIGNMENT).toBe(0);
    const { call, addresses, output } = bindAnywhere(executor, program);
    expect(output).toBeGreaterThan(60_000_000);
    const ones = new Float32Array(10_000).fill(1);
    executor.write(addresses.get("a")!, bytesOf(ones));
    executor.write(addresses.get("b")!, bytesOf(ones));
    const before = [executor.reserved, executor.overhead, executor.memory.buffer.byteLength];
    executor.run(call);
    expect([executor.reserved, executor.overhead, executor.memory.buffer.byteLength]).toEqual(before);
    const silu = (x: number): number => x / (1 + Math.exp(-x));
    const result = new Float32Array(executor.read(output, 40_000).buffer);
    for (const at of [0, 4_999, 5_000, 9_999]) expect(Math.abs(result[at]! / (silu(silu(1)) + silu(1)) - 1)).toBeLessThan(1e-6);
    expect([...executor.read(first, 5)]).toEqual([1, 2, 3, 4, 5]);
  });

  test("reserved counts what was asked for, rounded up to 64 bytes", async () => {
    const executor = await create({ threads: 1 });
    executor.prepare(chain([3, 3], 40));
    expect(executor.reserved).toBe(0);
    executor.reserve(1);
    executor.reserve(64);
    executor.reserve(65);
    expect(executor.reserved).toBe(64 + 64 + 128);
  });

  test.if(process.platform === "linux")(
    "pages go back to the system when they are given back, and read as zeros; and when it is closed",
    async () => {
      const executor = await create({ threads: 1 });
      // So many that what else the tests' process takes and gives back meanwhile is little of it.
      const bytes = 512 << 20;
      const address = executor.reserve(bytes);
      collectGarbage();
      const start = process.memoryUsage.rss();
      const rises = () => {
        executor.fill(address, bytes, (target) => void target.fill(7));
        return process.memoryUsage.rss() - start;
      };
      expect(rises()).toBeGreaterThan(0.8 * bytes);
      expect(executor.giveBack!(address + 100, bytes - 200)).toBe(true);
      expect(process.memoryUsage.rss() - start).toBeLessThan(0.2 * bytes);
      // What is on no whole page stays.
      expect([...executor.read(address + 99, 1), ...executor.read(address + bytes / 2, 1)]).toEqual([7, 0]);
      expect(executor.giveBack!(address + 100, 200)).toBe(true);
      expect(rises()).toBeGreaterThan(0.8 * bytes);
      executor.close();
      expect(process.memoryUsage.rss() - start).toBeLessThan(0.2 * bytes);
    },
  );

  test("addresses beyond 2 GiB work", async () => {
    const executor = await create({ threads: 2 });
    executor.reserve(2 ** 31 + 2 ** 30);
    const { call, addresses, output } = bindAnywhere(executor, executor.prepare(chain([40, 40], 1)));
    expect(output).toBeGreaterThan(2 ** 31 + 2 ** 30);
    const data = random(generator(4), [40, 40]).data;
    executor.write(addresses.get("a")!, bytesOf(data));
    executor.write(addresses.get("b")!, bytesOf(data));
    executor.run(call);
    const result = new Float32Array(executor.read(output, 6400).buffer);
    result.forEach((y, i) => {
      const x = data[i]!;
      // chain adds the one value it kept to itself
      const expected = (2 * x * x) / (1 + Math.exp(-x));
      expect(Math.abs(y - expected)).toBeLessThanOrEqual(1e-6 * Math.max(1, expected));
    });
  });

  test("exhausted memory is a user error that names the sizes, and leaves the executor usable", async () => {
    const executor = await create({ threads: 1, memoryLimit: 16 << 20 });
    const attempt = (): Address => executor.reserve(20 << 20);
    expect(attempt).toThrow(UserError);
    expect(attempt).toThrow(/out of memory: the runtime needs 20\.0 MiB, but 13\.\d MiB of the 16\.0 MiB/);
    expect(executor.reserve(1 << 20)).toBeGreaterThan(0);
    expect(executor.reserved).toBe(1 << 20);
  });

  test("missing and misaligned addresses are refused by name", async () => {
    const executor = await create({ threads: 1 });
    const program = executor.prepare(chain([2, 2], 1));
    const { addresses } = bindAnywhere(executor, program);
    const without = new Map(addresses);
    without.delete("b");
    expect(() => executor.bind(program, without, 0)).toThrow("bind chain: no address for b");
    expect(() => executor.bind(program, new Map(addresses).set("b", 65536 + 4), 0)).toThrow(
      "bind chain: b: expected an address that is a multiple of 64",
    );
  });

  for (const threads of [1, 2]) {
    test(`a trap names the operator and stops the executor, ${threads} thread(s)`, async () => {
      const executor = await create({ threads });
      const program = executor.prepare(chain([128, 128], 1));
      const { addresses } = bindAnywhere(executor, program);
      const output = program.graph.outputs[0]!.name;
      // The second half of the output lies behind the end of memory: with two threads only the worker traps.
      const address = executor.memory.buffer.byteLength - 32768;
      const call = executor.bind(program, new Map(addresses).set(output, address), executor.reserve(program.workspace));
      expect(() => executor.run(call)).toThrow(/kernel of (SwiGLU|Add) \(.+\) in chain failed/);
      expect(() => executor.run(call)).toThrow("the WebAssembly executor was stopped by a trap in a kernel");
    });
  }

  test("a closed executor refuses to run", async () => {
    const executor = await create({ threads: 2 });
    const { call } = bindAnywhere(executor, executor.prepare(chain([2, 2], 1)));
    executor.close();
    executor.close();
    expect(() => executor.run(call)).toThrow("the WebAssembly executor is closed");
  });

  test("an operator that does not exist is named", async () => {
    const executor = await create({ threads: 1 });
    const builder = new GraphBuilder("unknown");
    const x = builder.input("x", "boundary", { dtype: "f32", shape: [1] });
    builder.output({ name: builder.value({ name: "Frobnicate", infer: ([type]) => [type!] }, [x], {}), role: "boundary" });
    expect(() => executor.prepare(builder.build())).toThrow("no operator named Frobnicate");
  });

  test("idle threads use no processor time, and do not keep the process alive", async () => {
    const url = (path: string): string => JSON.stringify(new URL(path, import.meta.url).href);
    const script = `
      const { createWasmExecutor } = await import(${url("../../src/wasm/executor.ts")});
      const { GraphBuilder } = await import(${url("../../src/graph/builder.ts")});
      const { Add } = await import(${url("../../src/ops/add.ts")});
      const executor = await createWasmExecutor({ threads: 3 });
      const builder = new GraphBuilder("one");
      const x = builder.input("x", "boundary", { dtype: "f32", shape: [64] });
      const y = builder.value(Add, [x, x], {});
      builder.output({ name: y, role: "boundary" });
      const program = executor.prepare(builder.build());
      const call = executor.bind(program, new Map([[x, executor.reserve(256)], [y, executor.reserve(256)]]), 0);
      executor.run(call);
      await Bun.sleep(50);
      const before = process.cpuUsage();
      await Bun.sleep(400);
      const { user, system } = process.cpuUsage(before);
      executor.run(call);
      console.log(user + system);
    `;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe", timeout: 20_000 });
    const [output, errors, code] = [
      await new Response(child.stdout).text(),
      await new Response(child.stderr).text(),
      await child.exited,
    ];
    expect({ code, errors }).toEqual({ code: 0, errors: "" });
    // Microseconds of processor time in 400 ms: three spinning threads would use 800,000 or more on two cores.
    expect(Number(output)).toBeLessThan(40_000);
  });
});
