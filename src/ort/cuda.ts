import { existsSync, readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { CString, dlopen, type Pointer } from "bun:ffi";
import type { Card } from "../runtime/executor.ts";
import { cString, libraryPath } from "./library.ts";

/** Version of CUDA that the provider libraries of ONNX Runtime 1.30.0 are made for; a driver of it or newer is needed. */
const CUDA_MAJOR = 13;

/** ONNX Runtime's own files, which must lie beside its main library. */
export const PROVIDER_FILES = ["libonnxruntime_providers_shared.so", "libonnxruntime_providers_cuda.so"] as const;

export const CUDA_RUNTIME = "libcudart.so.13";

/**
 * NVIDIA's libraries that the provider needs, each behind those that it needs itself. It is linked to all but cuDNN, which
 * it opens for the first reduction.
 */
const CUDA_LIBRARIES = [
  { name: CUDA_RUNTIME, part: "CUDA 13 runtime" },
  { name: "libcublasLt.so.13", part: "cuBLAS of CUDA 13" },
  { name: "libcublas.so.13", part: "cuBLAS of CUDA 13" },
  { name: "libcurand.so.10", part: "cuRAND of CUDA 13" },
  { name: "libcudnn.so.9", part: "cuDNN 9 for CUDA 13" },
] as const;

const DRIVER = "libcuda.so.1";
const DRIVER_NAME = `${DRIVER} (NVIDIA's driver)`;

/** How the system's loader says that there is no such library, as opposed to one that does not fit. */
const NO_FILE = "No such file or directory";

/** Something that CUDA needs and that is not there. */
export interface Missing {
  /** `libcudart.so.13 (CUDA 13 runtime)` */
  readonly what: string;
  /** Folders and other places. */
  readonly lookedIn: readonly string[];
  readonly get: string;
}

export interface CudaState {
  /** Empty when CUDA can be used. */
  readonly missing: readonly Missing[];
  /** The parts that are there, with their places or versions. */
  readonly found: readonly string[];
}

/** The surroundings that CUDA is looked for in, so that tests can make up others. */
export interface CudaSearch {
  readonly platform: string;
  /** Where ONNX Runtime's main library lies. */
  readonly folder: string;
  /** Folders besides the system's that may hold NVIDIA's libraries. */
  readonly folders: readonly string[];
  /** Loads a library by name (as the system finds it) or path for good; null, or why not. */
  load(library: string): string | null;
  /** The driver, once it is loaded: cards, and the newest version of CUDA that it can run (13000: 13.0). */
  driver(): { readonly cards: number; readonly version: number } | string;
}

/** Looks for everything that the CUDA provider needs, and loads NVIDIA's libraries so that it finds them. */
export function findCuda(search: CudaSearch = systemSearch()): CudaState {
  if (search.platform !== "linux x64") {
    const what = `the CUDA provider for ${search.platform}`;
    return { found: [], missing: [{ what, lookedIn: [], get: "it runs on Linux x64 alone: use another device" }] };
  }
  const missing: Missing[] = [];
  const found: string[] = [];
  const driverError = search.load(DRIVER);
  if (driverError !== null) {
    const get = `install NVIDIA's driver for your card, of CUDA ${CUDA_MAJOR} or newer; in a container, pass the card through`;
    missing.push({ what: DRIVER_NAME, lookedIn: systemPlaces(), get });
  } else {
    found.push(DRIVER_NAME);
    const driver = search.driver();
    if (typeof driver === "string" || driver.cards === 0) {
      const why = typeof driver === "string" ? ` (${driver})` : "";
      missing.push({ what: `an NVIDIA card${why}`, lookedIn: [DRIVER], get: "check that nvidia-smi lists the card" });
    } else if (driver.version < 1000 * CUDA_MAJOR) {
      const version = `${Math.floor(driver.version / 1000)}.${Math.floor((driver.version % 1000) / 10)}`;
      const what = `a driver of CUDA ${CUDA_MAJOR} (there is one of CUDA ${version})`;
      missing.push({ what, lookedIn: [DRIVER], get: "update NVIDIA's driver" });
    } else {
      found.push(`${driver.cards} NVIDIA card${driver.cards === 1 ? "" : "s"}`);
    }
  }
  for (const file of PROVIDER_FILES) {
    if (existsSync(join(search.folder, file))) found.push(file);
    else missing.push({ what: `${file} (ONNX Runtime's)`, lookedIn: [search.folder], get: "run: remat doctor --install cuda" });
  }
  for (const { name, part } of CUDA_LIBRARIES) {
    const paths = [search.folder, ...search.folders].map((folder) => join(folder, name)).filter((path) => existsSync(path));
    const tries = [name, ...paths].map((library) => ({ library, error: search.load(library) }));
    const loaded = tries.find(({ error }) => error === null);
    if (loaded) {
      found.push(loaded.library);
      continue;
    }
    const broken = tries.find(({ error }) => !error!.includes(NO_FILE))?.error;
    missing.push({
      what: `${name} (${part}${broken ? `; there is one that cannot be loaded: ${broken}` : ""})`,
      lookedIn: [...systemPlaces(), search.folder, ...search.folders],
      get: `install ${part}, or name its folder in LD_LIBRARY_PATH`,
    });
  }
  return { missing, found };
}

/** Tells whether ONNX Runtime's own files for CUDA are installed. Nothing is loaded. */
export function hasProviderFiles(): boolean {
  try {
    const folder = dirname(libraryPath());
    return PROVIDER_FILES.every((file) => existsSync(join(folder, file)));
  } catch {
    // Without ONNX Runtime there are none.
    return false;
  }
}

/** Tells whether there is a driver or ONNX Runtime's files, but not all else: the user might expect CUDA to be used. */
export function isHalfInstalled({ missing, found }: CudaState): boolean {
  const telling: readonly string[] = [DRIVER_NAME, ...PROVIDER_FILES];
  return missing.length > 0 && found.some((name) => telling.includes(name));
}

/** `libcudart.so.13 (CUDA 13 runtime): looked in A, B; install ...` */
export function describeMissing({ what, lookedIn, get }: Missing): string {
  return `${what} is missing${lookedIn.length > 0 ? `, looked for in ${lookedIn.join(", ")}` : ""}; ${get}`;
}

function systemPlaces(): string[] {
  const path = process.env["LD_LIBRARY_PATH"];
  return ["the system's library folders", ...(path ? [`LD_LIBRARY_PATH (${path})`] : [])];
}

function systemSearch(): CudaSearch {
  return {
    platform: `${process.platform} ${process.arch}`,
    folder: dirname(libraryPath()),
    folders: cudaFolders(),
    load: loadGlobally,
    driver: readDriver,
  };
}

/** Where CUDA's installer and the Python packages `nvidia-*` put their libraries. */
function cudaFolders(): string[] {
  const { CUDA_HOME, CUDA_PATH, VIRTUAL_ENV } = process.env;
  const toolkits = [CUDA_HOME, CUDA_PATH, `/usr/local/cuda-${CUDA_MAJOR}`, "/usr/local/cuda"];
  const python = VIRTUAL_ENV ? foldersIn(join(VIRTUAL_ENV, "lib")) : [];
  const packages = python.flatMap((folder) => foldersIn(join(folder, "site-packages", "nvidia")));
  const folders = [
    ...toolkits.flatMap((root) => (root ? [join(root, "lib64")] : [])),
    ...packages.map((root) => join(root, "lib")),
  ];
  return [...new Set(folders)].filter((folder) => existsSync(folder));
}

function foldersIn(folder: string): string[] {
  return existsSync(folder) ? readdirSync(folder).map((name) => join(folder, name)) : [];
}

/** RTLD_NOW | RTLD_GLOBAL: the provider then finds a loaded library by its name, wherever it lies. */
const LOAD_GLOBALLY = 0x102;

interface Loader {
  dlopen(path: Uint8Array, flags: number): Pointer | null;
  dlerror(): Pointer | null;
}

let loader: Loader | null = null;

function loadGlobally(library: string): string | null {
  loader ??= dlopen("libc.so.6", {
    dlopen: { args: ["ptr", "i32"], returns: "ptr" },
    dlerror: { args: [], returns: "ptr" },
  }).symbols as unknown as Loader;
  if (loader.dlopen(cString(library), LOAD_GLOBALLY)) return null;
  const message = loader.dlerror();
  return message ? new CString(message).toString() : "unknown error";
}

/** `cudaMemGetInfo(size_t *free, size_t *total)`, of the first card. */
type MemoryInfo = (free: BigUint64Array, total: BigUint64Array) => number;

/** Bytes of the card's memory, by the CUDA runtime that the provider has loaded; null when it cannot be asked. */
export function cardMemory(open: () => MemoryInfo = openMemoryInfo): ReturnType<Card["memory"]> {
  const [free, total] = [new BigUint64Array(1), new BigUint64Array(1)];
  try {
    return open()(free, total) === SUCCESS ? { free: Number(free[0]), total: Number(total[0]) } : null;
  } catch {
    // Another version of the runtime, under another name.
    return null;
  }
}

function openMemoryInfo(): MemoryInfo {
  return dlopen(CUDA_RUNTIME, { cudaMemGetInfo: { args: ["ptr", "ptr"], returns: "i32" } }).symbols.cudaMemGetInfo;
}

/** CUresult and cudaError_t: success. */
const SUCCESS = 0;

function readDriver(): { cards: number; version: number } | string {
  const { cuInit, cuDeviceGetCount, cuDriverGetVersion } = dlopen(DRIVER, {
    cuInit: { args: ["u32"], returns: "i32" },
    cuDeviceGetCount: { args: ["ptr"], returns: "i32" },
    cuDriverGetVersion: { args: ["ptr"], returns: "i32" },
  }).symbols;
  const status = cuInit(0);
  if (status !== SUCCESS) return `the driver answers with error ${status}`;
  const cards = new Int32Array(1);
  const version = new Int32Array(1);
  cuDeviceGetCount(cards);
  cuDriverGetVersion(version);
  return { cards: cards[0]!, version: version[0]! };
}
