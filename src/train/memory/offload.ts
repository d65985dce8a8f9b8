import { existsSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { UserError } from "../../base/errors.ts";
import type { Address, Executor } from "../../runtime/executor.ts";
import type { TransferCounts } from "../../runtime/offload-memory.ts";
import type { Link } from "../../schedule/chain.ts";
import { openMirroredStore } from "../../store/mirrored.ts";
import { type OffloadStore, openStore, type StoreOptions } from "../../store/store.ts";
import type { TrainConfig } from "../config.ts";
import { freeMemory } from "../../base/process/free-memory.ts";

/** Boundaries and tapes may leave memory for a file in a folder, or for the process's memory with a device. */
export interface OffloadOptions {
  readonly folder: string;
  /** Smaller items stay in memory; `NOMINAL_LINK`'s by default. */
  readonly leastBytes?: number;
  /** For tests; see `openStore`. */
  readonly open?: StoreOptions["open"];
}

/**
 * A link until its bandwidth is measured: an ordinary disk's (bytes per second), beside `modelledSeconds`'s ordinary cores. Items of
 * less than 256 KiB would be all latency; half a GiB in flight keeps any disk busy.
 */
export const NOMINAL_LINK: Link = { out: 1e9, in: 1e9, leastBytes: 2 ** 18, inFlight: 2 ** 29 };

/**
 * Returns what `--offload` asks for; null when everything stays in memory. `auto` is the folder that `output` is in, or will be in.
 * @throws {UserError} a folder that is none
 */
export function offloadOf({ offload }: Pick<TrainConfig, "offload">, output: string): OffloadOptions | null {
  if (offload === "off") return null;
  if (offload === "auto") return { folder: existingFolder(output) };
  if (!existsSync(offload) || !statSync(offload).isDirectory()) {
    throw new UserError(`--offload takes off, auto, or a folder that exists; there is no folder ${offload}`);
  }
  return { folder: resolve(offload) };
}

/** The nearest folder of a path that exists, itself included. */
export function existingFolder(path: string): string {
  let folder = resolve(path);
  while (!existsSync(folder) || !statSync(folder).isDirectory()) folder = dirname(folder);
  return folder;
}

/** @throws {UserError} when no file can be made in the folder */
export function openEngineStore(executor: Executor, { folder, open }: OffloadOptions): OffloadStore {
  const { mirror, wait } = executor;
  return mirror && wait
    ? openMirroredStore({ mirror, wait }, { freeMemory })
    : openStore(executor, { folder, freeMemory, ...(open && { open }) });
}

/** Bytes of a probe's moves, and how long it takes in each direction, about. */
const PROBE_BYTES = 2 ** 25;
const PROBE_SECONDS = 0.15;

/**
 * Bytes per second each way, by moving memory that is not in use. The first copy is not counted: a file gets its blocks then, which a
 * step's copies find there. Null when the memory is too small for a measurement.
 */
export function measureBandwidth(
  executor: Pick<Executor, "mirror">,
  store: OffloadStore,
  address: Address,
  bytes: number,
  alignment: number,
): Pick<Link, "out" | "in"> | null {
  const size = Math.floor(Math.min(bytes, PROBE_BYTES) / alignment) * alignment;
  if (size === 0) return null;
  const place = store.reserve("probe", size);
  executor.mirror?.load(address, size);
  const out = () => store.wait("out", store.copy(address, size, place, Infinity));
  out();
  const rate = (move: () => void): number => {
    const begin = performance.now();
    let moves = 0;
    let seconds = 0;
    do {
      move();
      moves++;
      seconds = (performance.now() - begin) / 1000;
    } while (seconds < PROBE_SECONDS);
    return (moves * size) / seconds;
  };
  const rates = { out: rate(out), in: rate(() => store.wait("in", store.fetch(address, size, place, 0))) };
  executor.mirror?.forget(address, size);
  return rates;
}

/** Bytes per second that moves had between two counts; a direction in which nothing moved is left out. */
export function bandwidthSeen(before: TransferCounts, now: TransferCounts): Partial<Pick<Link, "out" | "in">> {
  const rate = (bytes: number, seconds: number) => (bytes > 0 && seconds > 0 ? bytes / seconds : undefined);
  const out = rate(now.out - before.out, now.busyOut - before.busyOut);
  const into = rate(now.in - before.in, now.busyIn - before.busyIn);
  return { ...(out !== undefined && { out }), ...(into !== undefined && { in: into }) };
}
