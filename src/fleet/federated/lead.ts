import { randomBytes } from "node:crypto";
import { existsSync, readdirSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { makeFolder } from "../../base/files/files.ts";
import { flagName } from "../../base/names.ts";
import { openModel } from "../../load/open-model.ts";
import { trainConfigSchema } from "../../train/config.ts";
import { LOCK_FILE, lockRun } from "../../train/run/lock.ts";
import { type Coordinator, type CoordinatorEvent, createCoordinator, type RoundRules } from "./coordinator.ts";
import { firstModel, isMeanExact } from "./first-model.ts";
import { readFederation } from "./round-files.ts";
import { type Federation, ROUND_OPTIONS, SHARED_KEYS } from "./settings.ts";
import { digestOf } from "./updates/layout.ts";

/** What a coordinator is told, whatever carries its messages. */
export const leadSchema = z.strictObject({
  model: trainConfigSchema.shape.model,
  output: z
    .string()
    .min(1)
    .default("runs/federation")
    .describe("folder of the rounds and of the common adapter; the same command goes on with what it holds"),
  ...ROUND_OPTIONS,
  ...trainConfigSchema.pick(SHARED_KEYS).shape,
});

export type LeadSettings = z.output<typeof leadSchema>;

export interface LeadOptions {
  readonly sink: (event: CoordinatorEvent) => void;
  readonly onNote?: ((text: string) => void) | undefined;
  readonly lingerMs?: number;
}

/** A coordinator with its folder locked. */
export interface Lead extends Coordinator {
  readonly federation: Federation;
  /** Values that are learned. */
  readonly parameters: number;
  readonly rules: RoundRules;
  /** The round that is open. */
  readonly round: number;
}

/**
 * Opens a federation, or goes on with the one in its folder. Weights are not loaded: a coordinator needs the memory of a few vectors.
 * @throws {UserError} settings that have no mean, a folder of something else or of another federation
 */
export async function openLead(settings: LeadSettings, { sink, onNote, lingerMs }: LeadOptions): Promise<Lead> {
  const { model: name, output, rounds, localSteps, encoding } = settings;
  const training = trainConfigSchema.pick(SHARED_KEYS).parse(pick(settings, SHARED_KEYS));
  const config = trainConfigSchema.parse({ ...training, model: name, data: "-", output });
  const rules = rulesOf(settings, isMeanExact(config));
  const opened = await openModel({ model: name }, { check: "kept", onNote });
  try {
    const first = firstModel(config, opened);
    const described = {
      training,
      rounds,
      localSteps,
      encoding,
      privacy: privacyOf(settings),
      model: { ...nameOf(opened.name), ...opened.identity },
      layout: first.layout.digest,
    };
    const folder = resolve(output);
    const before = checkFolder(folder, output);
    const federation: Federation = {
      run: before?.run ?? randomBytes(8).toString("hex"),
      ...described,
      initial: digestOf(first.begin()),
    };
    if (before) expectSame(before, federation, output);
    makeFolder(folder);
    const lock = lockRun(folder, output);
    try {
      const coordinator = createCoordinator({
        folder: join(folder, "rounds"),
        federation,
        layout: first.layout,
        rules,
        begin: () => first.begin(),
        sink,
        onModel: (model) => first.write(folder, model),
        ...(lingerMs !== undefined && { lingerMs }),
      });
      return {
        ...coordinator,
        federation,
        parameters: first.layout.size,
        rules,
        get round() {
          return coordinator.round;
        },
        close() {
          coordinator.close();
          lock.release();
          opened.close();
        },
      };
    } catch (error) {
      lock.release();
      throw error;
    }
  } catch (error) {
    opened.close();
    throw error;
  }
}

/** A folder of this machine says nothing elsewhere but its last name. */
function nameOf(model: string): Pick<Federation["model"], "name" | "hub"> {
  return existsSync(model) ? { name: basename(resolve(model)), hub: null } : { name: model, hub: model };
}

function pick(values: object, keys: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(values).filter(([key, value]) => key in keys && value !== undefined));
}

/** @throws {UserError} */
function rulesOf(settings: LeadSettings, isExact: boolean): RoundRules {
  const { nodes, least = nodes, roundMinutes, weighting, outerLearningRate, outerMomentum } = settings;
  if (least > nodes) throw new UserError(`--least ${least} is more than --nodes ${nodes}, which close a round`);
  const { aggregate = isExact ? "average" : "products" } = settings;
  if (aggregate === "products") {
    if (settings.method !== "lora") throw new UserError(`--aggregate products is for --method lora; got ${settings.method}`);
    if (outerMomentum !== 0 || outerLearningRate !== 1) {
      const flag = flagName(outerMomentum !== 0 ? "outerMomentum" : "outerLearningRate");
      throw new UserError(
        `${flag} needs updates of the same parameters in every round, which factors of a product are not; give --freeze-a`,
      );
    }
  }
  return {
    nodes,
    least,
    roundMs: 60_000 * roundMinutes,
    weighting,
    aggregate,
    outer: { learningRate: outerLearningRate, momentum: outerMomentum },
  };
}

/** @throws {UserError} */
function privacyOf({ privacyClip: clip, privacyNoise: noise, privacyDelta: delta }: LeadSettings): Federation["privacy"] {
  if (clip === undefined && noise === undefined) return null;
  if (clip === undefined || noise === undefined) {
    const [has, lacks] = clip === undefined ? ["privacyNoise", "privacyClip"] : ["privacyClip", "privacyNoise"];
    throw new UserError(`${flagName(has)} needs ${flagName(lacks)}: noise is measured by what a single example may add`);
  }
  return { clip, noise, delta };
}

/** Returns the federation that a folder holds; null: it is new. @throws {UserError} a folder of something else */
function checkFolder(folder: string, name: string): Federation | null {
  const before = readFederation(join(folder, "rounds"));
  if (before !== null) return before;
  let entries: string[] = [];
  try {
    entries = readdirSync(folder).filter((entry) => entry !== LOCK_FILE);
  } catch {
    // It is made.
  }
  // One that was ended before it had begun has an empty folder of rounds.
  if (entries.every((entry) => entry === "rounds")) return null;
  throw new UserError(`--output ${name}: the folder is not empty, and holds no federation; choose another one`);
}

/** @throws {UserError} */
function expectSame(before: Federation, now: Federation, output: string): void {
  // Settings before the hashes that follow from them.
  const flat = ({ training, ...rest }: Federation) => Object.entries({ ...training, ...rest });
  const had = new Map(flat(before).map(([key, value]) => [key, JSON.stringify(value)]));
  const other = flat(now).find(([key, value]) => value !== undefined && had.get(key) !== JSON.stringify(value));
  if (other === undefined) return;
  throw new UserError(
    `--output ${output} holds a federation with other settings: ${other[0]} was ${had.get(other[0]) ?? "not given"}, and is ${JSON.stringify(other[1])}; give the same, or another folder`,
  );
}
