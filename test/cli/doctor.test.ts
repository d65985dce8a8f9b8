import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { formatReport } from "../../src/cli/verbs/doctor.ts";
import type { Report } from "../../src/doctor/examine.ts";
import { BOUND, selfTest } from "../../src/doctor/self-test.ts";
import { findCuda } from "../../src/ort/cuda.ts";
import { createOrtExecutor } from "../../src/ort/executor.ts";
import type { Executor } from "../../src/runtime/executor.ts";
import { createWasmExecutor } from "../../src/wasm/executor.ts";
import { remat } from "../support/cli.ts";

setDefaultTimeout(120_000);

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
    expect(report.auto).toBe(cuda.works ? "cuda" : "wasm");
  });

  test("a report as text", () => {
    const missing = [
      { what: "libcudart.so.13 (CUDA 13 runtime)", lookedIn: ["/opt/a", "/opt/b"], get: "install CUDA 13 runtime" },
    ];
    const nothing = { matmul: null, works: false, description: null, test: null, problem: null, missing: [], found: [] };
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
      "--device auto takes wasm",
    ]);
  });

  test("--from alone and words are refused", async () => {
    expect(await remat(["doctor", "--from", "x"])).toMatchObject({ code: 2, stderr: "remat: --from needs --install cuda\n" });
    expect(await remat(["doctor", "all"])).toMatchObject({ code: 2, stderr: 'remat: doctor takes flags only, got "all"\n' });
  });
});
