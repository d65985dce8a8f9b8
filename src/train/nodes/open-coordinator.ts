import { availableParallelism } from "node:os";
import { UserError } from "../../base/errors.ts";
import type { Device } from "../../device.ts";
import type { Objective } from "../../objectives/objective.ts";
import type { TrainConfig } from "../config.ts";
import type { Engine } from "../step/engine.ts";
import { type Coordinator, createCoordinator } from "./coordinator.ts";
import { startLocalWorker } from "./local-worker.ts";
import type { WorkerSource } from "./messages.ts";
import { numericsOf } from "./numerics.ts";
import { trainedVector } from "./trained-vector.ts";

/** Devices whose results are the same bits in every run. */
const EXACT: readonly Device["name"][] = ["wasm", "ort-cpu"];

/**
 * The device of each process of a run, and its CPU threads: those that were asked for, else its share of the processor. Several processes compute
 * on the CPU unless told otherwise.
 * @param isAlone the others are on other machines
 */
export function nodeDevice({ nodes, device, threads }: TrainConfig, isAlone = false): Pick<TrainConfig, "device" | "threads"> {
  if (nodes === undefined) return { device, threads };
  const share = nodes > 1 && !isAlone ? Math.max(1, Math.floor(availableParallelism() / nodes)) : undefined;
  return { device: device === "auto" ? "wasm" : device, threads: threads ?? share };
}

/** @throws {UserError} a device or an objective whose steps cannot be divided */
export function checkDivisible({ nodes }: Pick<TrainConfig, "nodes">, { head }: Objective, device: Pick<Device, "name">): void {
  if (nodes === undefined) return;
  if (!EXACT.includes(device.name))
    throw new UserError(
      `--nodes needs the same bits from every process, which ${EXACT.join(" and ")} give; got --device ${device.name}`,
    );
  if (head.kind === "logits" && head.wholeStep)
    throw new UserError(
      "--grad-cache compares the texts of all micro-batches of a step, which --nodes divides; leave one of the two out",
    );
}

/** Describes what workers are to have in common with the process that a run belongs to. */
export interface CoordinatorInputs {
  readonly config: TrainConfig;
  readonly given: readonly string[];
  readonly fingerprint: string;
  readonly device: Device;
  readonly engine: Engine;
  /** The base model's folder. */
  readonly folder: string;
  /** Where workers come from; absent: they are processes of this machine. */
  readonly workers?: WorkerSource | undefined;
  warn(text: string): void;
}

/** Starts the workers of a run, which has `nodes` processes in all. Steps need not wait for them: a worker gets work when it is ready. */
export function openCoordinator(inputs: CoordinatorInputs): Coordinator | undefined {
  const { config, given, fingerprint, device, engine, folder, workers, warn } = inputs;
  if (config.nodes === undefined) return undefined;
  const prepare = {
    type: "prepare",
    config: { ...config, device: device.name, ...(!workers && nodeDevice(config)), resume: false, overwrite: false },
    given,
    fingerprint,
    numerics: numericsOf(device),
  } as const;
  const coordinator = createCoordinator({
    vector: trainedVector(engine),
    encoding: config.gradientEncoding,
    zeroGradients: engine.zeroGradients,
    prepare,
    warn,
  });
  const count = config.nodes - 1;
  if (!workers) {
    for (let i = 1; i <= count; i++) coordinator.add(`worker ${i}`, startLocalWorker());
    return coordinator;
  }
  const source = count > 0 ? workers({ count, prepare, folder, add: coordinator.add, note: warn }) : null;
  return {
    ...coordinator,
    get last() {
      return coordinator.last;
    },
    async close() {
      await coordinator.close();
      await source?.close();
    },
  };
}
