import { type Pointer, ptr } from "bun:ffi";
import { cString, created, loadOrt, type OrtApi } from "./library.ts";

/** Describes what all sessions of the process share. */
export interface OrtEnvironment {
  readonly api: OrtApi;
  readonly env: Pointer;
  /** Names the CPU's memory, and the arena that temporary memory comes from. */
  readonly memoryInfo: Pointer;
}

/** OrtLoggingLevel: errors. */
export const LOG_ERRORS = 3;
/** Arguments of CreateCpuMemoryInfo: OrtArenaAllocator, OrtMemTypeDefault. */
const ARENA_ALLOCATOR = 1;
const DEFAULT_MEMORY = 0;

/**
 * The arena grows by what is asked for, not in powers of two; a region that it took from the system is not cut into
 * pieces that keep more than 1 MiB idle.
 */
export const ARENA: Readonly<Record<string, number>> = { arena_extend_strategy: 1, max_dead_bytes_per_chunk: 1 << 20 };

let shared: OrtEnvironment | null = null;

/**
 * The environment, made once: ONNX Runtime has only one per process. Its CPU arena serves all sessions, so that
 * programs that run one after the other use the same temporary memory. @throws {UserError} when the library cannot be loaded
 */
export function openEnvironment(): OrtEnvironment {
  if (shared) return shared;
  const { api } = loadOrt();
  const env = created((out) => api.CreateEnv(LOG_ERRORS, cString("remat"), out));
  // Windows has a telemetry of its own, without a variable.
  api.DisableTelemetryEvents(env);
  const memoryInfo = created((out) => api.CreateCpuMemoryInfo(ARENA_ALLOCATOR, DEFAULT_MEMORY, out));
  const arena = createArenaConfig(api, ARENA);
  api.CreateAndRegisterAllocator(env, memoryInfo, arena);
  api.ReleaseArenaCfg(arena);
  shared = { api, env, memoryInfo };
  return shared;
}

export function createArenaConfig(api: OrtApi, entries: Readonly<Record<string, number>>): Pointer {
  const names = Object.keys(entries).map(cString);
  const values = BigUint64Array.from(Object.values(entries), BigInt);
  const keys = BigUint64Array.from(names, (name) => BigInt(ptr(name)));
  return created((out) => api.CreateArenaCfgV2(keys, values, values.length, out));
}

export function loadSession({ api, env }: OrtEnvironment, model: Uint8Array, options: Pointer): Pointer {
  return created((out) => api.CreateSessionFromArray(env, model, model.length, options, out));
}
