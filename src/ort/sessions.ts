import type { Pointer } from "bun:ffi";
import { messageOf } from "../base/errors.ts";
import { loadSession, LOG_ERRORS, type OrtEnvironment } from "./environment.ts";
import { cString, created, type OrtApi } from "./library.ts";
import { appendProvider, type OrtProvider, type ProviderOptions } from "./providers.ts";

/** GraphOptimizationLevel: a bf16 weight's Cast must stay where it is, and nothing else is gained on these graphs. */
const NO_OPTIMIZATION = 0;

const ENTRIES: Readonly<Record<string, string>> = {
  "session.use_env_allocators": "1",
  // Weights are inputs, which ONNX Runtime cannot pack; constants are tiny.
  "session.disable_prepacking": "1",
  // A pool would spin for 50 ms after each run, and each session has its own.
  "session.intra_op.allow_spinning": "0",
};

/** OrtLoggingLevel: nothing but the end of the process. */
const LOG_NOTHING = 4;

/** With it a session is not loaded that has nodes for the CPU. */
const NO_CPU = "session.disable_cpu_ep_fallback";
/** How ONNX Runtime says so. */
const CPU_NODES = "fallback to CPU EP has been explicitly disabled";

/** Options of sessions on a provider. They live as long as the sessions are loaded with them. */
export function createSessionOptions(
  api: OrtApi,
  threads: number,
  provider: OrtProvider,
  settings: ProviderOptions,
  more: Readonly<Record<string, string>> = {},
): Pointer {
  const options = created((out) => api.CreateSessionOptions(out));
  api.SetIntraOpNumThreads(options, threads);
  api.SetInterOpNumThreads(options, 1);
  // A session that is loaded on trial may fail; every error is a status too.
  api.SetSessionLogSeverityLevel(options, more[NO_CPU] ? LOG_NOTHING : LOG_ERRORS);
  api.SetSessionGraphOptimizationLevel(options, NO_OPTIMIZATION);
  // Patterns are for varying shapes, and cost memory.
  api.DisableMemPattern(options);
  for (const [key, value] of Object.entries({ ...ENTRIES, ...more }))
    api.AddSessionConfigEntry(options, cString(key), cString(value));
  appendProvider(api, options, provider, settings);
  return options;
}

export interface LoadedSession {
  readonly session: Pointer;
  /** True if some of its nodes run on the CPU, although the provider is another device's. */
  readonly isMixed: boolean;
}

/** Loads programs' sessions, and knows which of them stay on the device. */
export interface SessionLoader {
  load(model: Uint8Array): LoadedSession;
  close(): void;
}

/** @param make makes session options with further entries */
export function createSessionLoader(
  environment: OrtEnvironment,
  make: (more: Readonly<Record<string, string>>) => Pointer,
): SessionLoader {
  const strict = make({ [NO_CPU]: "1" });
  let loose: Pointer | null = null;
  return {
    load(model) {
      try {
        return { session: loadSession(environment, model, strict), isMixed: false };
      } catch (error) {
        if (!messageOf(error).includes(CPU_NODES)) throw error;
        loose ??= make({});
        return { session: loadSession(environment, model, loose), isMixed: true };
      }
    },
    close() {
      for (const options of [strict, loose]) if (options !== null) environment.api.ReleaseSessionOptions(options);
    },
  };
}
