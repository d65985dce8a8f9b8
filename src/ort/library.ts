import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { CString, dlopen, linkSymbols, type Pointer, ptr, read } from "bun:ffi";
import { messageOf, UserError } from "../base/errors.ts";
import { IS_EXECUTABLE } from "../base/process/program.ts";
import { forbidTelemetry } from "./telemetry.ts";

/**
 * ONNX Runtime's C API by `bun:ffi`. `OrtGetApiBase()->GetApi(version)` is a table of function pointers that only ever
 * grows at its end, so the positions below (`onnxruntime_c_api.h`, struct OrtApi) hold in every later version.
 */
const API_VERSION = 23;

/** [position in the table, argument types, result]. Without a result a function returns an `OrtStatus*`, null if all is well. */
const SLOTS = {
  GetErrorMessage: [2, ["ptr"], "ptr"],
  CreateEnv: [3, ["i32", "ptr", "ptr"]],
  DisableTelemetryEvents: [6, ["ptr"]],
  CreateSessionFromArray: [8, ["ptr", "ptr", "usize", "ptr", "ptr"]],
  Run: [9, ["ptr", "ptr", "ptr", "ptr", "usize", "ptr", "usize", "ptr"]],
  CreateSessionOptions: [10, ["ptr"]],
  DisableMemPattern: [17, ["ptr"]],
  SetSessionLogSeverityLevel: [22, ["ptr", "i32"]],
  SetSessionGraphOptimizationLevel: [23, ["ptr", "i32"]],
  SetIntraOpNumThreads: [24, ["ptr", "i32"]],
  SetInterOpNumThreads: [25, ["ptr", "i32"]],
  CreateRunOptions: [39, ["ptr"]],
  CreateTensorWithDataAsOrtValue: [49, ["ptr", "ptr", "usize", "ptr", "usize", "i32", "ptr"]],
  CreateMemoryInfo: [68, ["ptr", "i32", "i32", "i32", "ptr"]],
  CreateCpuMemoryInfo: [69, ["i32", "i32", "ptr"]],
  AllocatorAlloc: [75, ["ptr", "usize", "ptr"]],
  AllocatorFree: [76, ["ptr", "ptr"]],
  GetAllocatorWithDefaultOptions: [78, ["ptr"]],
  ReleaseStatus: [93, ["ptr"], "void"],
  ReleaseMemoryInfo: [94, ["ptr"], "void"],
  ReleaseSession: [95, ["ptr"], "void"],
  ReleaseValue: [96, ["ptr"], "void"],
  ReleaseRunOptions: [97, ["ptr"], "void"],
  ReleaseSessionOptions: [100, ["ptr"], "void"],
  AddSessionConfigEntry: [130, ["ptr", "ptr", "ptr"]],
  CreateAllocator: [131, ["ptr", "ptr", "ptr"]],
  ReleaseAllocator: [132, ["ptr"], "void"],
  RunWithBinding: [133, ["ptr", "ptr", "ptr"]],
  CreateIoBinding: [134, ["ptr", "ptr"]],
  ReleaseIoBinding: [135, ["ptr"], "void"],
  BindInput: [136, ["ptr", "ptr", "ptr"]],
  BindOutput: [137, ["ptr", "ptr", "ptr"]],
  CreateAndRegisterAllocator: [144, ["ptr", "ptr", "ptr"]],
  ReleaseArenaCfg: [157, ["ptr"], "void"],
  CreateArenaCfgV2: [164, ["ptr", "ptr", "usize", "ptr"]],
  AddRunConfigEntry: [165, ["ptr", "ptr", "ptr"]],
  SynchronizeBoundInputs: [202, ["ptr"]],
  SynchronizeBoundOutputs: [203, ["ptr"]],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, ["ptr", "ptr"]],
  CreateCUDAProviderOptions: [205, ["ptr"]],
  UpdateCUDAProviderOptions: [206, ["ptr", "ptr", "ptr", "usize"]],
  ReleaseCUDAProviderOptions: [208, ["ptr"], "void"],
  SessionOptionsAppendExecutionProvider: [216, ["ptr", "ptr", "ptr", "ptr", "usize"]],
  CreateAndRegisterAllocatorV2: [259, ["ptr", "ptr", "ptr", "ptr", "ptr", "ptr", "usize"]],
  GetKeyValue: [297, ["ptr", "ptr"], "ptr"],
  ReleaseKeyValuePairs: [300, ["ptr"], "void"],
  AllocatorGetStats: [319, ["ptr", "ptr"]],
  CopyTensors: [386, ["ptr", "ptr", "ptr", "ptr", "usize"]],
} as const satisfies Record<string, Slot>;

type Argument = "ptr" | "i32" | "usize";
type Slot = readonly [position: number, args: readonly Argument[], returns?: "ptr" | "void"];
export type SlotName = keyof typeof SLOTS;

type ArgumentValue<T> = T extends "ptr" ? Pointer | NodeJS.TypedArray | null : number;
type Arguments<T extends readonly Argument[]> = { -readonly [I in keyof T]: ArgumentValue<T[I]> };
type Result<T extends Slot> = T extends readonly [number, readonly Argument[], "ptr"] ? Pointer | null : void;

/** The functions, checked: a failing status becomes an Error with ONNX Runtime's message. */
export type OrtApi = { readonly [K in SlotName]: (...args: Arguments<(typeof SLOTS)[K][1]>) => Result<(typeof SLOTS)[K]> };

export interface OrtLibrary {
  readonly api: OrtApi;
  /** A function as other threads can bind it, by `bindFunctions`. */
  entry(name: SlotName): Pointer;
  /** `1.30.0` */
  readonly version: string;
  readonly path: string;
}

const LIBRARY_NAMES: Readonly<Record<string, string>> = {
  linux: "libonnxruntime.so.1",
  darwin: "libonnxruntime.1.dylib",
  win32: "onnxruntime.dll",
};

/** Where the package onnxruntime-node is, which is optional. @throws {UserError} when it is not installed */
export function packageFolder(): string {
  try {
    return dirname(Bun.resolveSync("onnxruntime-node/package.json", import.meta.dir));
  } catch {
    throw new UserError(
      "ONNX Runtime is not there: expected the package onnxruntime-node, which is optional; install again (with npm: ONNXRUNTIME_NODE_INSTALL=skip npm install)",
    );
  }
}

/** Where the package onnxruntime-node keeps the library for this system. @throws {UserError} when it is not there */
export function libraryPath(): string {
  const name = LIBRARY_NAMES[process.platform] ?? "";
  if (IS_EXECUTABLE) {
    const path = join(dirname(process.execPath), name);
    if (existsSync(path)) return path;
    throw new UserError(`ONNX Runtime is not there: put ${name} of the package onnxruntime-node beside this program, as ${path}`);
  }
  const path = join(packageFolder(), "bin", "napi-v6", process.platform, process.arch, name);
  if (!existsSync(path)) {
    throw new UserError(`ONNX Runtime has no library for ${process.platform} ${process.arch}: expected ${path}`);
  }
  return path;
}

const loaded = new Map<string, OrtLibrary>();

/** Loads the library once per process. @throws {UserError} when it cannot be loaded */
export function loadOrt(path: string = libraryPath()): OrtLibrary {
  let library = loaded.get(path);
  if (!library) {
    library = open(path);
    loaded.set(path, library);
  }
  return library;
}

function open(path: string): OrtLibrary {
  forbidTelemetry();
  let base: Pointer | null;
  try {
    base = toPointer(dlopen(path, { OrtGetApiBase: { args: [], returns: "ptr" } }).symbols.OrtGetApiBase());
  } catch (error) {
    throw new UserError(`ONNX Runtime cannot be loaded from ${path}: ${messageOf(error)}`);
  }
  const { getApi, getVersion } = linkSymbols({
    getApi: { ptr: pointerAt(base!, 0), args: ["u32"], returns: "ptr" },
    getVersion: { ptr: pointerAt(base!, 1), args: [], returns: "ptr" },
  }).symbols;
  const version = text(toPointer(getVersion()));
  const table = toPointer(getApi(API_VERSION));
  if (!table) throw new UserError(`ONNX Runtime ${version} at ${path} is too old: expected 1.${API_VERSION} or later`);
  return { api: bindApi(table), entry: (name) => pointerAt(table, SLOTS[name][0]), version, path };
}

/** Functions by their addresses, unchecked: those that return a status return it. */
export function bindFunctions<K extends SlotName>(entries: Readonly<Record<K, Pointer>>): Record<K, RawFunction> {
  const wanted = Object.entries<Pointer>(entries).map(([name, address]) => {
    const [, args, returns = "ptr"]: Slot = SLOTS[name as K];
    return [name, { ptr: address, args: [...args], returns }] as const;
  });
  return linkSymbols(Object.fromEntries(wanted)).symbols as unknown as Record<K, RawFunction>;
}

export type RawFunction = (...args: unknown[]) => Pointer | null;

function bindApi(table: Pointer): OrtApi {
  const entries = Object.entries<Slot>(SLOTS).map(([name, [position]]) => [name, pointerAt(table, position)] as const);
  const raw = bindFunctions(Object.fromEntries(entries) as Record<SlotName, Pointer>);
  const checked = (name: SlotName): RawFunction => {
    const call = raw[name];
    return (...args) => {
      const status = call(...args);
      if (!status) return null;
      const message = text(raw.GetErrorMessage(status));
      raw.ReleaseStatus(status);
      throw new Error(`ONNX Runtime, ${name}: ${message}`);
    };
  };
  const names = Object.keys(SLOTS) as SlotName[];
  const api = Object.fromEntries(names.map((name) => [name, SLOTS[name].length === 3 ? raw[name] : checked(name)]));
  return api as unknown as OrtApi;
}

/** Addresses of a process fit a number. */
function toPointer(value: Pointer | bigint | null): Pointer | null {
  return value === null ? null : (Number(value) as Pointer);
}

function pointerAt(table: Pointer, position: number): Pointer {
  return read.ptr(table, 8 * position) as Pointer;
}

export function text(pointer: Pointer | null): string {
  return pointer ? new CString(pointer).toString() : "";
}

/** A NUL-terminated string for a `char*` argument. */
export function cString(value: string): Uint8Array {
  return new TextEncoder().encode(`${value}\0`);
}

/** Calls a function that writes a handle through its last argument. */
export function created(create: (out: BigUint64Array) => void): Pointer {
  const out = new BigUint64Array(1);
  create(out);
  return Number(out[0]) as Pointer;
}

/** Arrays of `char*` for functions that take keys and values; `texts` keeps the characters alive. */
export interface TextPairs {
  readonly keys: BigUint64Array;
  readonly values: BigUint64Array;
  readonly count: number;
  readonly texts: readonly Uint8Array[];
}

export function textPairs(entries: Readonly<Record<string, string>>): TextPairs {
  const keys = Object.keys(entries).map(cString);
  const values = Object.values(entries).map(cString);
  const pointers = (texts: readonly Uint8Array[]) => BigUint64Array.from(texts, (text) => BigInt(ptr(text)));
  return { keys: pointers(keys), values: pointers(values), count: keys.length, texts: [...keys, ...values] };
}
