import { constants } from "node:os";

/** Signals that ask a process to end in good order. A second one of the same kind ends it at once. */
const SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;

export interface SignalWatch {
  /** 128 with the number of the last signal, as shells have it; null: none has come. */
  readonly code: number | null;
  /** Leaves the signals to the system again. */
  end(): void;
}

/** Calls `onSignal` at the first signal of each kind. */
export function watchSignals(onSignal: () => void): SignalWatch {
  let code: number | null = null;
  const handlers = SIGNALS.map((name) => {
    const handle = () => {
      code = 128 + constants.signals[name];
      onSignal();
    };
    process.once(name, handle);
    return () => process.off(name, handle);
  });
  return {
    get code() {
      return code;
    },
    end: () => handlers.forEach((remove) => remove()),
  };
}
