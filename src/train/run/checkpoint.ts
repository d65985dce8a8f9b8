import { closeSync, existsSync, fsyncSync, openSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { messageOf, UserError } from "../../base/errors.ts";
import { byteLength } from "../../graph/types.ts";
import { parseWith } from "../../base/schema.ts";
import { fileError, hashFile, makeFolder, writeTextAtomic } from "../../base/files/files.ts";
import { readJsonObject } from "../../base/json.ts";
import { compareFingerprints, type Difference } from "../fingerprint.ts";
import { CHECKPOINT_FILE, CHECKPOINT_PREFIX } from "../../hf/peft/adapter-folder.ts";
import { expectTensor, openSafetensors, readBytes } from "../../hf/weights/safetensors.ts";
import { type TensorData, writeSafetensors } from "../../hf/weights/safetensors-write.ts";
import { type Executor, fillPieces, PIECE, readPieces } from "../../runtime/executor.ts";
import { type OptimizerState, type TrainedTensor, trainedTensors } from "../../optimizers/plan.ts";
import type { Resident } from "../../runtime/resident.ts";
import { isAdapterPart } from "../../models/adapters/index.ts";
import type { Coordinator } from "../nodes/coordinator.ts";
import type { PastStep } from "../nodes/roster.ts";
import type { LossScale } from "../step/loss-scale.ts";

/**
 * Training states on disk, in `<run>/checkpoints/step-00000042/`: the trainable parameters with the optimizer's state
 * (`state.safetensors`: `param/<name>` and `<slot>/<name>`), and where training stands (`state.json`, with the checksum of the former and its own). Nothing else is
 * needed to go on as if nothing had happened: data order and dropout are functions of the seed and the position.
 *
 * A checkpoint is written under another name and renamed when all of it is on the disk, so one that is there is whole
 * unless the disk damaged it, which the checksum tells.
 */
export interface TrainingPosition {
  /** Optimizer steps done. */
  readonly step: number;
  /** Micro-batches done: position in the data, and key of dropout. */
  readonly draw: number;
  /** Held-out loss at this step, where it was measured; with another `--best-metric` that one, negated where more is better. */
  readonly heldOutLoss: number | null;
  /** Least held-out loss so far, and evaluations since it was reached. */
  readonly bestLoss: number | null;
  readonly sinceBest: number;
  /** The loss scale of training in f16. */
  readonly lossScale: LossScale | null;
}

export const START: TrainingPosition = { step: 0, draw: 0, heldOutLoss: null, bestLoss: null, sinceBest: 0, lossScale: null };

const STATE_FILE = CHECKPOINT_FILE;
const POSITION_FILE = "state.json";
const NAME = /^step-(\d{8})$/;
/** Up to version 3, a checkpoint held three flat arrays: AdamW's parameters and moments in the order of their layout. */
const FLAT_VERSION = 3;
const VERSION = 4;

const positionSchema = z.object({
  version: z.union([z.literal(FLAT_VERSION), z.literal(VERSION)]),
  fingerprint: z.string(),
  step: z.number().int().min(0),
  draw: z.number().int().min(0),
  heldOutLoss: z.number().nullable(),
  bestLoss: z.number().nullable(),
  sinceBest: z.number().int().min(0),
  lossScale: z
    .object({ scale: z.number().positive(), streak: z.number().int().min(0), skipped: z.number().int().min(0) })
    .nullable(),
  /** The steps of the period under way, where gradients travel in codes; their parameters are tensors. */
  past: z
    .array(z.object({ step: z.number().int().min(1), draw: z.number().int().min(0), total: z.number(), factor: z.number() }))
    .optional(),
  sha256: z.string(),
});

/** Describes what `--resume` finds in a run folder. */
export interface Resumable {
  /** The step of the newest checkpoint whose `state.json` is whole. */
  readonly step: number;
  /** The settings about the run's length that differ from those at the time of writing. */
  readonly length: Difference | null;
}

/**
 * Looks at the newest checkpoint of a run folder that can be read, and loads nothing. Null when there is none.
 * @param steps at which the run is to end now
 * @throws {UserError} a checkpoint of a run with other settings, or of one that is past its end
 */
export function findResumable(run: string, fingerprint: string, steps: number): Resumable | null {
  const folder = join(run, "checkpoints");
  for (const name of checkpointNames(folder).reverse()) {
    const path = join(folder, name);
    let position: z.infer<typeof positionSchema>;
    try {
      position = readPosition(path);
    } catch (error) {
      if (!(error instanceof UserError)) throw error;
      continue;
    }
    const { other, length } = compareFingerprints(position.fingerprint, fingerprint);
    if (other) {
      throw new UserError(
        `${path} was written by a run with other settings: it had ${other.had || "none of that"}, this one has ${other.has || "none of that"}. Use the same settings, or another --output`,
      );
    }
    if (position.step > steps) {
      throw new UserError(
        `${path} is past the end of this run, which is to have ${steps} steps; give more --steps or --epochs, or another --output`,
      );
    }
    return { step: position.step, length };
  }
  return null;
}

export interface CheckpointOptions {
  /** How many of the newest are kept; the one with the least held-out loss is kept besides. */
  readonly keep: number;
  /** Written beside the position, for `findResumable`. */
  readonly fingerprint: string;
  /** Writes what makes an adapter folder of a checkpoint's folder, in which the parameters are already. */
  readonly describe?: ((folder: string) => void) | undefined;
  /** What divides the steps among processes, and has more to keep than the state in memory. */
  readonly coordinator?: Pick<Coordinator, "past" | "resume"> | undefined;
}

export interface Checkpoints {
  save(position: TrainingPosition): void;
  /**
   * Loads the newest checkpoint that is whole and returns its position, or null when there is none. `warn` hears of
   * damaged ones that were passed over.
   * @throws {UserError} damaged ones alone
   */
  restore(warn: (message: string) => void): TrainingPosition | null;
  /** The same of the checkpoint with the least held-out loss. */
  restoreBest(warn: (message: string) => void): TrainingPosition | null;
}

/** Describes what is trained, in an executor's memory: an engine's. */
export interface TrainedState {
  readonly executor: Executor;
  readonly resident: Pick<Resident, "params" | "param" | "trainable">;
  readonly optimizer: OptimizerState | null;
}

/** The parts of adapters that stay as they are: an adapter that is opened from a checkpoint has them, too. */
function frozenParts({ params, param }: TrainedState["resident"]): TrainedTensor[] {
  return params
    .filter((info) => !info.trainable && isAdapterPart(info))
    .map(({ name, type }) => ({ name: `${CHECKPOINT_PREFIX}${name}`, type, address: param.get(name)! }));
}

/** The checkpoints of a run folder, for the state in an executor's memory. */
export function createCheckpoints(run: string, state: TrainedState, options: CheckpointOptions): Checkpoints {
  const { executor, optimizer } = state;
  const { trainable } = state.resident;
  if (!optimizer) throw new Error("a state without an optimizer has no checkpoints");
  const folder = join(run, "checkpoints");
  const names = () => checkpointNames(folder);
  const trained = [...trainedTensors(trainable, optimizer), ...frozenParts(state.resident)];

  /** Loads the first of some checkpoints that is whole. */
  const firstWhole = (candidates: readonly string[], warn: (message: string) => void): TrainingPosition | null => {
    for (const name of candidates) {
      const path = join(folder, name);
      try {
        const { position, past } = load(path, state, trained);
        options.coordinator?.resume(past);
        return position;
      } catch (error) {
        warn(`checkpoint ${path} is damaged and passed over: ${messageOf(error)}`);
      }
    }
    return null;
  };

  return {
    save(position) {
      const name = `step-${String(position.step).padStart(8, "0")}`;
      const temporary = join(folder, `.${name}.tmp`);
      makeFolder(folder);
      try {
        rmSync(temporary, { recursive: true, force: true });
        makeFolder(temporary);
        const piece = new Uint8Array(PIECE);
        const tensors = trained.map(({ name, type, address }): TensorData => ({
          name,
          ...type,
          data: { pieces: () => readPieces(executor, address, byteLength(type), piece) },
        }));
        const past = options.coordinator?.past() ?? [];
        const before = past.map(({ step, values }): TensorData => ({ ...pastTensor(step, values.byteLength), data: values }));
        writeSafetensors(join(temporary, STATE_FILE), [...tensors, ...before]);
        const record = {
          version: VERSION,
          fingerprint: options.fingerprint,
          ...position,
          ...(past.length > 0 && { past: past.map(({ step, draw, total, factor }) => ({ step, draw, total, factor })) }),
          sha256: hashFile(join(temporary, STATE_FILE)),
        };
        const signed = { ...record, checksum: hashRecord(record) };
        writeTextAtomic(join(temporary, POSITION_FILE), `${JSON.stringify(signed, null, 2)}\n`);
        options.describe?.(temporary);
        rmSync(join(folder, name), { recursive: true, force: true });
        renameSync(temporary, join(folder, name));
        syncFolder(folder);
      } catch (error) {
        rmSync(temporary, { recursive: true, force: true });
        throw fileError("write the checkpoint", join(folder, name), error);
      }
      // Those of later steps were damaged and passed over: they would count among the newest.
      for (const other of names()) if (other > name) rmSync(join(folder, other), { recursive: true, force: true });
      prune(folder, names(), options.keep);
    },
    restore(warn) {
      const position = firstWhole(names().reverse(), warn);
      if (position || names().length === 0) return position;
      throw new UserError(
        `no checkpoint in ${folder} is whole; bring one back from a copy, or start anew with --overwrite instead of --resume`,
      );
    },
    restoreBest(warn) {
      const evaluated = names().filter((name) => heldOutLoss(folder, name) !== Infinity);
      return firstWhole(
        evaluated.sort((a, b) => heldOutLoss(folder, a) - heldOutLoss(folder, b)),
        warn,
      );
    },
  };
}

/** A checkpoint of a run folder. */
export interface SavedCheckpoint {
  readonly step: number;
  readonly folder: string;
  /** The time when it was written, in milliseconds. */
  readonly at: number;
}

/** The checkpoints of a run folder, oldest first. */
export function savedCheckpoints(run: string): SavedCheckpoint[] {
  const all = join(run, "checkpoints");
  return checkpointNames(all).flatMap((name) => {
    const stat = statSync(join(all, name, POSITION_FILE), { throwIfNoEntry: false });
    return stat ? [{ step: Number(NAME.exec(name)![1]), folder: join(all, name), at: stat.mtimeMs }] : [];
  });
}

/** Oldest first. */
function checkpointNames(folder: string): string[] {
  return existsSync(folder)
    ? readdirSync(folder)
        .filter((name) => NAME.test(name))
        .sort()
    : [];
}

/** The parameters of a step before the checkpoint's. */
const pastTensor = (step: number, bytes: number) => ({ name: `past/${step}`, dtype: "f32", shape: [bytes / 4] }) as const;

interface Loaded {
  readonly position: TrainingPosition;
  readonly past: readonly PastStep[];
}

function load(path: string, { executor, resident }: TrainedState, trained: readonly TrainedTensor[]): Loaded {
  const { layout } = resident.trainable;
  const { version, sha256, fingerprint: _, past = [], ...position } = readPosition(path);
  const weights = join(path, STATE_FILE);
  if (hashFile(weights) !== sha256) throw new UserError(`${weights} does not have the checksum that ${POSITION_FILE} states`);
  const source = openSafetensors(weights);
  try {
    const begins = new Map(layout.parts.map(({ param, begin }) => [param.name, begin]));
    const places = trained.map(({ name, type }) => {
      if (version === VERSION) return { entry: expectTensor(source, name, type.shape, [type.dtype]), from: 0 };
      const slash = name.indexOf("/");
      const entry = expectTensor(source, name.slice(0, slash), [layout.size], ["f32"]);
      return { entry, from: 4 * begins.get(name.slice(slash + 1))! };
    });
    const size = resident.params.reduce((sum, { trainable, type }) => sum + (trainable ? byteLength(type) : 0), 0);
    const steps = past.map((step): PastStep => {
      const { name, dtype, shape } = pastTensor(step.step, size);
      return { ...step, values: readBytes(source, expectTensor(source, name, shape, [dtype])) };
    });
    // All are checked before the first byte is written.
    trained.forEach(({ type, address }, i) => {
      const { entry, from } = places[i]!;
      fillPieces(executor, address, byteLength(type), (target, at) => source.read(entry, target, from + at));
    });
    return { position, past: steps };
  } finally {
    source.close();
  }
}

function readPosition(path: string): z.infer<typeof positionSchema> {
  const file = join(path, POSITION_FILE);
  const { checksum, ...record } = readJsonObject(file);
  if (checksum !== hashRecord(record)) throw new UserError(`${file} does not have the checksum that it states`);
  return parseWith(positionSchema, record, file);
}

/** Held-out loss of a checkpoint's weights; infinite where it is not known. */
function heldOutLoss(folder: string, name: string): number {
  try {
    return readPosition(join(folder, name)).heldOutLoss ?? Infinity;
  } catch {
    return Infinity;
  }
}

/** Removes all but the newest `keep` and the best, and what interrupted saves left. */
function prune(folder: string, names: readonly string[], keep: number): void {
  const loss = (name: string) => heldOutLoss(folder, name);
  const older = names.slice(0, Math.max(0, names.length - keep));
  const best = names.reduce((least, name) => (loss(name) < loss(least) ? name : least), names[0]!);
  for (const name of older)
    if (name !== best || loss(best) === Infinity) rmSync(join(folder, name), { recursive: true, force: true });
  for (const name of readdirSync(folder)) if (name.endsWith(".tmp")) rmSync(join(folder, name), { recursive: true, force: true });
}

function syncFolder(folder: string): void {
  const fd = openSync(folder, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

function hashRecord(record: Readonly<Record<string, unknown>>): string {
  return new Bun.CryptoHasher("sha256").update(JSON.stringify(record)).digest("hex");
}
