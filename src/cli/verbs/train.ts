import { join, sep } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { HELP_GROUPS, type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { FLEET_OPTIONS } from "../../fleet/options.ts";
import type { WorkerSource } from "../../train/nodes/messages.ts";
import { run as runTraining } from "../../train/run/run.ts";
import { RUN_FILES } from "../../train/run/folder.ts";
import { recipesFolder } from "../flags/bundled.ts";
import { findConfig, readConfigFile, validateConfig, withFlags } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { openInBrowser } from "../terminal/browser.ts";
import { createDisplay } from "../terminal/display.ts";
import { withSignals } from "../terminal/signals.ts";

/** The recipe that `remat train` without a configuration runs. */
const DEFAULT_RECIPE = "devils-dictionary";

const { fleet, ...others } = FLEET_OPTIONS;
/** Flags that say how a fleet is reached: no part of a configuration, which is written into the run folder, and may be shown. */
const fleetSchema = z.strictObject({
  fleet: fleet.optional().meta({
    description: "with --nodes: NATS server of a fleet whose nodes are the other processes, such as nats://10.0.0.5:4222",
  }),
  ...others,
});

export const flags = trainConfigSchema.extend(fleetSchema.shape);

const FLEET_GROUP = {
  keys: Object.keys(fleetSchema.shape),
  description: "with --nodes, a fleet's NATS server, whose nodes are the other processes; how it is reached: see remat node",
};

export function help(): string {
  return `Fine-tunes a model.

Usage: remat train [CONFIG] [--flag value ...]

CONFIG is a .ts, .yaml or .json file with the flags' names as keys, a recipe's name, or a run folder: remat train RUN --resume.
Without CONFIG, --model and --data the bundled example is trained.

${describeFlags(flags, [...HELP_GROUPS, FLEET_GROUP])}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { config, file, keys, notes, workers } = await resolveConfig(args);
  const { emit } = createDisplay(config.json, { file });
  for (const text of notes) emit({ type: "message", text });
  return withSignals(async (signal) => {
    const { reason } = await runTraining(config, { sink: emit, signal, given: keys, workers });
    if (config.open && reason !== "dry-run" && !signal.aborted) openInBrowser(join(config.output, RUN_FILES.report));
    return reason === "interrupted";
  });
}

/** Tells whether a file is one of the recipes. Their folder is unpacked by whoever asks for it, so files elsewhere do not ask. */
function isRecipe(file: string): boolean {
  return file.split(sep).includes("recipes") && file.startsWith(recipesFolder() + sep);
}

interface Resolved {
  readonly config: TrainConfig;
  /** The file that it came from. */
  readonly file: string | undefined;
  /** The keys that file or flags have. */
  readonly keys: readonly string[];
  /** Sentences about the file that a user should read. */
  readonly notes: readonly string[];
  /** Nodes of a fleet; undefined: none are asked for. */
  readonly workers: WorkerSource | undefined;
}

async function resolveConfig(args: readonly string[]): Promise<Resolved> {
  const { values: all, words } = parseFlags(flags, args);
  const isOfFleet = ([key]: readonly [string, unknown]) => key in fleetSchema.shape;
  const values = Object.fromEntries(Object.entries(all).filter((entry) => !isOfFleet(entry)));
  const fleetFlags = Object.fromEntries(Object.entries(all).filter(isOfFleet));
  const dataWord = words.find((word) => /\.(?:jsonl|csv|tsv|parquet)$/.test(word));
  if (dataWord !== undefined) {
    throw new UserError(
      `${dataWord} is a file of data, where a configuration is expected; give --data, and quotes around a pattern: --data "more/*.csv"`,
    );
  }
  if (words.length > 1)
    throw new UserError(`expected one configuration, got ${words.map((word) => JSON.stringify(word)).join(" and ")}`);
  const named = words[0] ?? (values["model"] === undefined && values["data"] === undefined ? DEFAULT_RECIPE : undefined);
  const file = named === undefined ? undefined : findConfig(named, recipesFolder);
  // A recipe is no file of the user's: its run goes where the user is.
  const outputFolder = file !== undefined && isRecipe(file) ? "." : undefined;
  const read = file === undefined ? { values: {}, notes: [] } : await readConfigFile(file, outputFolder);
  // The bundled example may be run again and again without thinking of folders.
  const implied = words.length === 0 && named === DEFAULT_RECIPE ? { overwrite: true } : {};
  const asked = withFlags({ ...read, values: { ...implied, ...read.values } }, values);
  const config = validateConfig(trainConfigSchema, asked.values, file);
  return { config, file, keys: Object.keys(asked.values), notes: asked.notes, workers: await workersOf(config, fleetFlags) };
}

/** @throws {UserError} a fleet without anything to divide, or without an address */
async function workersOf({ nodes }: TrainConfig, given: Readonly<Record<string, unknown>>): Promise<WorkerSource | undefined> {
  if (Object.keys(given).length === 0) return undefined;
  const { fleet, ...options } = validateConfig(fleetSchema, given);
  if (fleet === undefined) throw new UserError("flags about a fleet need its address; give --fleet nats://HOST:4222");
  if (nodes === undefined)
    throw new UserError(
      "--fleet has nodes of a fleet compute a part of each step; say with how many processes in all: --nodes 3",
    );
  const { remoteWorkers } = await import("../../fleet/parallel/remote-workers.ts");
  return remoteWorkers({ fleet, ...options });
}
