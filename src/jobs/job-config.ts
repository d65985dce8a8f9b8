import { existsSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../base/errors.ts";
import { show } from "../base/json.ts";
import { type TrainConfig, type TrainConfigInput, trainConfigSchema } from "../train/config.ts";
import { savedCheckpoints } from "../train/run/checkpoint.ts";
import { RUN_FILES } from "../train/run/folder.ts";
import type { FileStore } from "./home/files.ts";
import type { Home } from "./home/home.ts";
import type { Job, JobConfig, JobStore, Parent } from "./job-store.ts";

/** Where the things are that a job's configuration has names for. */
export interface JobPlaces {
  readonly home: Home;
  readonly files: FileStore;
  readonly jobs: JobStore;
  /** By name: folders of base models, or names on the hub. */
  readonly bases: ReadonlyMap<string, string>;
  /** The folder of an adapter that no job has made; null: there is none of that name. */
  adapterOf(name: string): string | null;
}

/** Steps between two checkpoints where a run says nothing of them are minutes: a job may be killed at any time. */
const SAVE_MINUTES = 2;
/** Checkpoints that are kept, as OpenAI keeps those of the last three epochs. */
const KEEP = 3;

/**
 * The configuration of a job, and the keys of it that were asked for. Paths are of this machine, and of things in the home or named models alone.
 * @throws {UserError} a thing that is not there any more
 */
export function trainConfigOf(
  places: JobPlaces,
  output: string,
  { base, parent, training, validation, chatTemplate, settings }: JobConfig,
): { readonly config: TrainConfig; readonly given: readonly string[] } {
  const model = places.bases.get(base);
  if (model === undefined) throw new UserError(`the base model ${show(base)} is not served any more; give it with --model`);
  const input: TrainConfigInput = {
    saveMinutes: SAVE_MINUTES,
    keep: KEEP,
    // A job's model is an adapter of the base model that is served, whatever a run of its own would train.
    ...(parent === null && { method: "lora" as const }),
    ...settings,
    model,
    data: pathOf(places, training),
    output,
    ...(validation === null ? {} : { valid: pathOf(places, validation) }),
    ...(chatTemplate === null ? {} : { chatTemplate: pathOf(places, chatTemplate) }),
    ...(parent === null ? {} : { adapter: adapterFolder(places, parent) }),
  };
  return { config: trainConfigSchema.parse(input), given: Object.keys(input) };
}

/** @throws {UserError} */
function pathOf({ files }: JobPlaces, id: string): string {
  const file = files.get(id);
  if (file === null) throw new UserError(`the file ${id} was deleted; upload it again`);
  return files.pathOf(file);
}

/** The folder of the adapter that a job or a model's name stands for. @throws {UserError} */
export function adapterFolder({ home, jobs, adapterOf }: JobPlaces, parent: Parent): string {
  if (parent.kind === "adapter") {
    const folder = adapterOf(parent.name);
    if (folder === null) throw new UserError(`the adapter ${show(parent.name)} is not there any more`);
    return folder;
  }
  const run = home.runOf(parent.job);
  if (parent.step === null) {
    if (jobs.get(parent.job)?.kept !== "nothing" && existsSync(join(run, RUN_FILES.adapterConfig))) return run;
    throw new UserError(`the model of ${parent.job} was deleted`);
  }
  const found = savedCheckpoints(run).find(({ step }) => step === parent.step);
  if (!found) throw new UserError(`${parent.job} has no checkpoint of step ${parent.step} any more`);
  return found.folder;
}

/** The names of a job's checkpoint, as a model. */
export const checkpointModel = ({ name }: Pick<Job, "name">, step: number): string => `${name}:ckpt-step-${step}`;

/** Returns what a model's name stands for among the jobs; null: nothing. */
export function parentOf(jobs: JobStore, name: string): { readonly job: Job; readonly step: number | null } | null {
  const [, ofJob, step] = /^(.*):ckpt-step-(\d+)$/.exec(name) ?? [];
  const job = jobs.byName(ofJob ?? name);
  return job === null ? null : { job, step: step === undefined ? null : Number(step) };
}

/** A message of training, in which a client's file has the name that it was uploaded with, and no folder of this machine is named. */
export function forClients({ home, files }: JobPlaces, message: string): string {
  const named = message.replaceAll(/[^\s"'(]*\/files\/([0-9a-f]{64})(\.\w+)/g, (path, sha256: string, kind: string) => {
    const row = home.database.query("SELECT filename FROM files WHERE sha256 = ? AND kind = ?").get(sha256, kind);
    const isOurs = path.startsWith(files.pathOf({ sha256, kind }).slice(0, -sha256.length - kind.length));
    return isOurs && row !== null ? (row as { readonly filename: string }).filename : path;
  });
  return named.replaceAll(home.folder, "HOME");
}
