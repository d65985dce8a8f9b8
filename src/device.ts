/**
 * The one place that knows all executors: makes the one for `--device`.
 */
import type { FloatType } from "./base/dtype.ts";
import { UserError } from "./base/errors.ts";
import type { Executor } from "./runtime/executor.ts";
import type { MatmulChoice } from "./wasm/matmul.ts";

/** The values of `--device`. */
export const DEVICES = ["auto", "wasm", "ort-cpu", "cuda", "webgpu"] as const;

export type DeviceName = (typeof DEVICES)[number];

/** The values of `--matmul`. */
export const MATMUL_CHOICES = ["auto", "wasm", "native", "bf16", "int8"] as const satisfies MatmulChoice[];

export interface DeviceOptions {
  readonly device: DeviceName;
  /** CPU threads; by default one per core. */
  readonly threads?: number | undefined;
  /** The provider of large matrix products on `wasm`; `auto` by default. */
  readonly matmul?: MatmulChoice | undefined;
  /** Type of weights and values that is asked for. */
  readonly dtype?: FloatType | undefined;
  /** Asked before a device with a driver is opened. */
  readonly trial?: Trial | undefined;
}

/** Knows of devices with drivers what this process cannot find out without danger. */
export interface Trial {
  /** Says why a device cannot be opened here; null when it can. */
  dangerOf(device: "cuda" | "webgpu"): Promise<string | null>;
  /** True if WebGPU has a real adapter that is faster than the kernels on the processor. It may be measured now. */
  prefersWebGpu(): Promise<boolean>;
}

/** An executor, and what the user should know about it. */
export interface Device {
  readonly name: Exclude<DeviceName, "auto">;
  readonly executor: Executor;
  /** The library and threads that compute. */
  readonly description: string;
  /** Why it is not the device that the user may expect; said once. */
  readonly notice: string | null;
  close(): void;
}

/**
 * Opens a device. `auto` is CUDA when all that it needs is there and loads, else WebGPU where a real adapter was measured to be faster than
 * WebAssembly, which it is otherwise.
 * @throws {UserError} a device that cannot be used here, with what is missing
 */
export async function openDevice(options: DeviceOptions): Promise<Device> {
  const { device, matmul } = options;
  const isOfWasm = matmul === "bf16" || matmul === "int8";
  if (isOfWasm && device !== "auto" && device !== "wasm")
    throw new UserError(`--matmul ${matmul} is of --device wasm, but --device is ${device}; leave one of the two out`);
  switch (device) {
    case "auto":
      // Who asks for the products of one device asks for that device.
      return isOfWasm ? openWasm(options, null) : openAuto(options);
    case "wasm":
      return openWasm(options, null);
    case "ort-cpu":
      return openOrt(options, "ort-cpu");
    case "webgpu":
      await passTrial(options, "webgpu");
      return openOrt(options, "webgpu");
    case "cuda": {
      const { describeMissing, findCuda } = await import("./ort/cuda.ts");
      const { missing } = findCuda();
      if (missing.length > 0)
        throw new UserError(
          `--device cuda cannot be used here:\n${missing.map((entry) => `- ${describeMissing(entry)}`).join("\n")}`,
        );
      await passTrial(options, "cuda");
      return openOrt(options, "cuda");
    }
  }
}

/** @throws {UserError} a device whose trial failed */
async function passTrial({ trial }: DeviceOptions, device: "cuda" | "webgpu"): Promise<void> {
  const problem = (await trial?.dangerOf(device)) ?? null;
  if (problem !== null) throw new UserError(`--device ${device} cannot be used here: ${problem}; see remat doctor`);
}

async function openAuto(options: DeviceOptions): Promise<Device> {
  const { findCuda, isHalfInstalled } = await import("./ort/cuda.ts");
  let state: ReturnType<typeof findCuda>;
  try {
    state = findCuda();
  } catch {
    // Without ONNX Runtime there is no CUDA either.
    return openWasm(options, null);
  }
  if (isHalfInstalled(state)) {
    const missing = state.missing.map(({ what }) => what).join(", ");
    return openWithoutCuda(options, `CUDA is not used, because this is missing: ${missing}; see remat doctor`);
  }
  if (state.missing.length > 0) return openWithoutCuda(options, null);
  try {
    await passTrial(options, "cuda");
    return await openOrt(options, "cuda");
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return openWithoutCuda(options, error.message);
  }
}

/** @param notice why CUDA is not used; null where nobody would expect it */
async function openWithoutCuda(options: DeviceOptions, notice: string | null): Promise<Device> {
  if (!(await takesWebGpu(options))) return openWasm(options, notice);
  try {
    await passTrial(options, "webgpu");
    const device = await openOrt(options, "webgpu");
    if (options.dtype !== "f16" || device.executor.halves === "f16") return { ...device, notice };
    device.close();
    return openWasm(options, notice);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return openWasm(options, [notice, error.message].filter((each) => each !== null).join("; "));
  }
}

/** Tells whether `auto` is WebGPU, whose measure says nothing of the products that decode, and which has no bf16. */
async function takesWebGpu({ trial, matmul = "auto", dtype }: DeviceOptions): Promise<boolean> {
  if (matmul !== "auto" || dtype === "bf16") return false;
  if (trial) return trial.prefersWebGpu();
  const { mayHaveAdapter } = await import("./ort/webgpu/adapter.ts");
  if (!mayHaveAdapter()) return false;
  const { rememberedChoice } = await import("./ort/webgpu/choice.ts");
  return rememberedChoice() === true;
}

async function openWasm({ threads, matmul = "auto" }: DeviceOptions, notice: string | null): Promise<Device> {
  const { createWasmExecutor } = await import("./wasm/executor.ts");
  const executor = await createWasmExecutor({ matmul, ...(threads !== undefined && { threads }) });
  const products = `matrix products ${executor.matmul.name} (${executor.matmul.reason})`;
  return {
    name: "wasm",
    executor,
    description: `wasm, ${threadsText(executor)}, ${products}`,
    notice,
    close: () => executor.close(),
  };
}

/** `REMAT_ORT=addon` has `ort-cpu` go through the addon although the library can be loaded. */
const FORCED_ADDON = "addon";

async function openOrt(options: DeviceOptions, name: "ort-cpu" | "cuda" | "webgpu"): Promise<Device> {
  const { threads } = options;
  if (name === "ort-cpu") {
    if (process.env["REMAT_ORT"] === FORCED_ADDON) return openAddon(options, "as REMAT_ORT asks for");
    const { loadOrt } = await import("./ort/library.ts");
    try {
      loadOrt();
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      try {
        return await openAddon(options, `because ${error.message}`);
      } catch {
        // The addon is of the same package.
        throw error;
      }
    }
  }
  const [{ createOrtExecutor }, { loadOrt }] = await Promise.all([import("./ort/executor.ts"), import("./ort/library.ts")]);
  const provider = name === "ort-cpu" ? "cpu" : name;
  const executor = createOrtExecutor({ provider, ...(threads !== undefined && { threads }) });
  return {
    name,
    executor,
    description: `${name}, ONNX Runtime ${loadOrt().version}${name === "ort-cpu" ? `, ${threadsText(executor)}` : ""}`,
    notice: null,
    close: () => executor.close(),
  };
}

async function openAddon({ threads }: DeviceOptions, why: string): Promise<Device> {
  const { createAddonExecutor } = await import("./ort/addon.ts");
  const executor = createAddonExecutor(threads === undefined ? {} : { threads });
  return {
    name: "ort-cpu",
    executor,
    description: `ort-cpu, ONNX Runtime through its addon, ${threadsText(executor)}`,
    notice: `ONNX Runtime is used through its addon, ${why}: slower, half types are widened to f32, and its temporary memory is not counted`,
    close: () => executor.close(),
  };
}

function threadsText({ threads }: Executor): string {
  return `${threads} thread${threads === 1 ? "" : "s"}`;
}
