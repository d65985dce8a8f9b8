import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { rmSync } from "node:fs";
import { join } from "node:path";
import { formatReport } from "../../src/cli/verbs/doctor.ts";
import { UserError } from "../../src/base/errors.ts";
import { type DeviceOptions, openDevice, type Trial } from "../../src/device.ts";
import { examineApart } from "../../src/doctor/apart.ts";
import { examine, type Report } from "../../src/doctor/examine.ts";
import { adapterWins, prefersWebGpu } from "../../src/doctor/choice.ts";
import { type Target, unknownDevice } from "../../src/doctor/report.ts";
import { leftToCpu } from "../../src/doctor/left-to-cpu.ts";
import { BOUND, selfTest } from "../../src/doctor/self-test.ts";
import { createTrial } from "../../src/doctor/trial.ts";
import { findCuda, hasProviderFiles } from "../../src/ort/cuda.ts";
import { bestOf } from "../../src/ort/webgpu/adapter.ts";
import { rememberedChoice } from "../../src/ort/webgpu/choice.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { cacheFolder } from "../../src/base/files/cache-folder.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { remat } from "../support/cli.ts";
import { HAS_HALF, webGpuTest } from "../support/webgpu.ts";

setDefaultTimeout(120_000);

// What doctor finds out is kept.
const { REMAT_CACHE: cache } = process.env;
process.env["REMAT_CACHE"] = temporaryFolder();
afterAll(() => {
  if (cache === undefined) delete process.env["REMAT_CACHE"];
  else process.env["REMAT_CACHE"] = cache;
});

const wasm = await createWasmExecutor({ threads: 1 });
const ort = createOrtExecutor({ threads: 1 });
afterAll(() => [wasm, ort].forEach((executor) => executor.close()));

describe("self-test", () => {
  test.each([wasm, ort].map((executor) => [executor.name, executor] as const))("%s: error below 1e-6, speeds", (_, executor) => {
    const { error, gflops, gbps } = selfTest(executor, 0.01);
    expect(error).toBeGreaterThan(0);
    expect(error).toBeLessThan(1e-6);
    expect(gflops).toBeGreaterThan(0.1);
    expect(gbps).toBeGreaterThan(0.1);
  });

  test("finds an executor whose results are wrong, or no numbers", () => {
    for (const wrong of [0.01, NaN]) {
      const broken: Executor = {
        ...wasm,
        read(address, bytes) {
          const data = wasm.read(address, bytes);
          new Float32Array(data.buffer, data.byteOffset)[0]! += wrong;
          return data;
        },
      };
      const { error } = selfTest(broken, 0.001);
      expect(error).toBeGreaterThan(BOUND);
    }
  });

  test("finds an executor that computes with the inputs of its first run for good", () => {
    const first = new Map<object, Uint8Array>();
    const stale: Executor = {
      ...wasm,
      bind: (program, addresses, workspace) => ({ ...wasm.bind(program, addresses, workspace), output: addresses.get("y")! }),
      run(call) {
        wasm.run(call);
        const { output } = call as typeof call & { output: number };
        const seen = first.get(call);
        if (seen) wasm.write(output, seen);
        else first.set(call, wasm.read(output, 64));
      },
    };
    expect(selfTest(stale, 0.001).error).toBeGreaterThan(BOUND);
  });
});

describe("a device that is tested in a child process", () => {
  const target = { device: "webgpu", matmul: null } as const;
  const report = { ...unknownDevice(target), works: true, description: "a card" };
  /** A child that evaluates a script. */
  const child = (script: string) => () => [process.execPath, "-e", script];
  const print = `console.log("noise of a driver"); console.log(${JSON.stringify(JSON.stringify(report))});`;
  const kill = (signal: string) => `process.kill(process.pid, "${signal}"); await Bun.sleep(60_000);`;

  test("its report is the child's", async () => {
    expect(await examineApart(target, { command: child(print) })).toEqual(report);
  });

  test.each([
    ["a segmentation fault", kill("SIGSEGV"), "its library or driver crashed (SIGSEGV)"],
    ["an abort", kill("SIGABRT"), "its library or driver crashed (SIGABRT)"],
    ["an end without a report", "process.exit(3)", "its library or driver ended the process with exit code 3"],
    [
      "a crash at the end",
      print + kill("SIGABRT"),
      "its library or driver crashed (SIGABRT) when the device was closed, after it had been tested",
    ],
  ])("%s is a problem of the report", async (_, script, problem) => {
    const found = await examineApart(target, { command: child(script) });
    expect(found).toMatchObject({ device: "webgpu", works: false, crashed: true, problem });
  });

  test("one that hangs is ended", async () => {
    const found = await examineApart(target, { command: child("await Bun.sleep(600_000)"), patience: 0.2 });
    expect(found).toMatchObject({ works: false, crashed: true, problem: "it did not answer within 0.2 seconds" });
  });

  test("doctor goes on behind a device that crashes", async () => {
    const found = await examine({
      command: (one) =>
        child(one.device === "webgpu" ? kill("SIGSEGV") : `console.log(${JSON.stringify(JSON.stringify(report))})`)(),
    });
    expect(found.devices.map(({ works }) => works)).toEqual([true, true, true, true, false]);
    expect(formatReport(found)).toContain("webgpu    does not work: its library or driver crashed (SIGSEGV)");
  });

  test("train does not open it, and says why", async () => {
    const trial = createTrial("webgpu", { command: child(kill("SIGSEGV")) });
    expect(await trial.beside(async () => 7)).toBe(7);
    await expect(openDevice({ device: "webgpu", trial })).rejects.toThrow(
      new UserError("--device webgpu cannot be used here: its library or driver crashed (SIGSEGV); see remat doctor"),
    );
  });

  test("nothing is tried where nothing can crash; the child ends with what is done beside it", async () => {
    let children = 0;
    const command = () => (children++, child("await Bun.sleep(600_000)")());
    expect(await createTrial("wasm", { command }).beside(async () => 1)).toBe(1);
    if (!hasProviderFiles()) expect(await createTrial("auto", { command }).beside(async () => 1)).toBe(1);
    expect(children).toBe(0);
    const trial = createTrial("webgpu", { command });
    await expect(trial.beside(() => Promise.reject(new Error("no data")))).rejects.toThrow("no data");
    expect(await trial.dangerOf("webgpu")).toContain("its library or driver crashed (SIGTERM)");
    expect(children).toBe(1);
  });
});

describe("--device auto without CUDA", () => {
  const adapter = { name: "a card", isSoftware: false };
  const speed = (gflops: number, gbps: number) => ({ test: { error: 1e-7, worst: "Gemm", gflops, gbps }, works: true });
  const webgpu = { ...unknownDevice({ device: "webgpu", matmul: null }), ...speed(200, 50), adapter };
  const kernels = { ...unknownDevice({ device: "wasm", matmul: "wasm" }), ...speed(60, 25) };
  const native = { ...unknownDevice({ device: "wasm", matmul: "native" }), ...speed(150, 25) };

  test("WebGPU is better where a real adapter is faster in products and in memory than each way of the processor's", () => {
    expect(adapterWins([kernels, native, webgpu])).toBe(true);
    expect(adapterWins([kernels, native])).toBe(false);
    expect(adapterWins([kernels, native, { ...webgpu, adapter: { ...adapter, isSoftware: true } }])).toBe(false);
    expect(adapterWins([kernels, native, { ...webgpu, adapter: null }])).toBe(false);
    expect(adapterWins([kernels, native, { ...webgpu, works: false }])).toBe(false);
    expect(adapterWins([kernels, { ...native, ...speed(250, 25) }, webgpu])).toBe(false);
    expect(adapterWins([kernels, { ...native, ...speed(150, 55) }, webgpu])).toBe(false);
    expect(bestOf([{ ...adapter, isSoftware: true }, adapter])).toBe(adapter);
    expect(bestOf([])).toBe(null);
  });

  test("it is measured once, in child processes, and where there may be an adapter at all; doctor measures it anew", async () => {
    rmSync(join(cacheFolder(), "webgpu.json"), { force: true });
    expect(rememberedChoice()).toBe(null);
    const asked: string[] = [];
    let card = webgpu;
    const command = ({ device, matmul }: Target) => {
      asked.push(matmul ?? device);
      const found = device === "webgpu" ? card : matmul === "wasm" ? kernels : native;
      return [process.execPath, "-e", `console.log(${JSON.stringify(JSON.stringify(found))})`];
    };
    expect(await prefersWebGpu({ command }, () => false)).toBe(false);
    expect(asked).toEqual([]);
    for (let i = 0; i < 2; i++) expect(await prefersWebGpu({ command }, () => true)).toBe(true);
    expect(asked).toEqual(["webgpu", "wasm", "native"]);
    card = { ...webgpu, ...speed(100, 50) };
    const report = await examine({ command });
    expect(report.auto).toBe("wasm");
    expect(await prefersWebGpu({ command }, () => true)).toBe(false);
    card = webgpu;
    expect((await examine({ command })).auto).toBe("webgpu");
  });

  const trial = (danger: string | null, prefers = true): Trial => ({
    dangerOf: async () => danger,
    prefersWebGpu: async () => prefers,
  });
  const opened = async (options: Omit<DeviceOptions, "device">) => {
    const device = await openDevice({ device: "auto", threads: 1, ...options });
    device.close();
    return { name: device.name, notice: device.notice };
  };

  test("it is not taken where it is slower, in bf16, for products that decode, or where it crashes, which is said", async () => {
    expect(await opened({ trial: trial(null, false) })).toMatchObject({ name: "wasm" });
    expect(await opened({ trial: trial(null), dtype: "bf16" })).toMatchObject({ name: "wasm" });
    expect(await opened({ trial: trial(null), matmul: "codes" })).toMatchObject({ name: "wasm" });
    const { name, notice } = await opened({ trial: trial("its driver crashed (SIGSEGV)") });
    expect([name, notice]).toEqual(["wasm", expect.stringContaining("its driver crashed (SIGSEGV); see remat doctor")]);
  });

  webGpuTest("it is taken where it is faster", async () => {
    expect(await opened({ trial: trial(null) })).toMatchObject({ name: "webgpu" });
    expect(await opened({ trial: trial(null), dtype: "f16" })).toMatchObject({ name: HAS_HALF ? "webgpu" : "wasm" });
  });
});

describe("remat doctor", () => {
  test("--json: each device works, or something is named", async () => {
    const { code, stdout } = await remat(["doctor", "--json"]);
    expect(code).toBe(0);
    const report = JSON.parse(stdout) as Report;
    expect(report.devices.map(({ device }) => device)).toEqual(["wasm", "wasm", "ort-cpu", "cuda", "webgpu"]);
    for (const { device, works, test, problem, missing } of report.devices) {
      if (device === "wasm" || device === "ort-cpu") expect(works).toBe(true);
      if (works) expect(test!.error).toBeLessThan(BOUND);
      else expect(problem !== null || missing.length > 0).toBe(true);
    }
    const cuda = report.devices.find(({ device }) => device === "cuda")!;
    expect(cuda.missing).toEqual([...findCuda().missing]);
    const wins = !cuda.works && adapterWins(report.devices);
    expect(report.auto).toBe(cuda.works ? "cuda" : wins ? "webgpu" : "wasm");
    const adapter = report.devices.find(({ device }) => device === "webgpu")!.adapter;
    if (adapter?.isSoftware) expect(wins).toBe(false);
  });

  test("a report as text", () => {
    const missing = [
      { what: "libcudart.so.13 (CUDA 13 runtime)", lookedIn: ["/opt/a", "/opt/b"], get: "install CUDA 13 runtime" },
    ];
    const nothing = unknownDevice({ device: "wasm", matmul: null });
    const test = { error: 2.3e-7, worst: "Gemm", gflops: 101.7, gbps: 20.14 };
    const text = formatReport({
      system: "linux x64",
      runtime: "Bun 1.4.5",
      cores: 2,
      memory: { total: 2 ** 34, free: 2 ** 33 },
      devices: [
        { ...nothing, device: "wasm", matmul: "wasm", works: true, description: "wasm, 2 threads", test },
        { ...nothing, device: "cuda", missing, found: ["libcuda.so.1"] },
        { ...nothing, device: "webgpu", problem: "no adapter" },
        { ...nothing, device: "webgpu", works: true, description: "a card", test, leftToCpu: ["Dequantize(i8, f32)"] },
        { ...nothing, device: "webgpu", works: true, description: "a card", test, leftToCpu: [] },
      ],
      auto: "wasm",
    });
    expect(text.split("\n")).toEqual([
      "system    linux x64, Bun 1.4.5, 2 cores, 8.00 GiB of 16.0 GiB memory free",
      "wasm      works: 102 GFLOP/s, 20.1 GB/s, error 2.3e-7 (wasm, 2 threads)",
      "cuda      does not work; missing:",
      "          - libcudart.so.13 (CUDA 13 runtime) is missing, looked for in /opt/a, /opt/b; install CUDA 13 runtime",
      "          there: libcuda.so.1",
      "webgpu    does not work: no adapter",
      "webgpu    works: 102 GFLOP/s, 20.1 GB/s, error 2.3e-7 (a card)",
      "          left to the CPU: Dequantize(i8, f32)",
      "webgpu    works: 102 GFLOP/s, 20.1 GB/s, error 2.3e-7 (a card)",
      "          left to the CPU: nothing",
      expect.stringMatching(/^where     .*Linux x64 with an NVIDIA card.*; DirectML and CoreML are not supported$/),
      "--device auto takes wasm",
    ]);
  });

  test("what a device leaves to the CPU is looked for node by node", () => {
    const seen: string[] = [];
    const found = leftToCpu(({ nodes, inputs, outputs }) => {
      expect([nodes.length, inputs.length > 0, outputs.length > 0]).toEqual([1, true, true]);
      seen.push(nodes[0]!.op);
      return nodes[0]!.op === "Dequantize";
    });
    expect(found).toEqual(["Dequantize(i8, f32)", "Dequantize(u8, f32)"]);
    expect(seen).toEqual(expect.arrayContaining(["Gemm", "PhiloxDropout", "EmbeddingGrad", "LinearCrossEntropyGrad"]));
  });

  test("--from alone and words are refused", async () => {
    expect(await remat(["doctor", "--from", "x"])).toMatchObject({ code: 2, stderr: "remat: --from needs --install cuda\n" });
    expect(await remat(["doctor", "all"])).toMatchObject({ code: 2, stderr: 'remat: doctor takes flags only, got "all"\n' });
  });
});
