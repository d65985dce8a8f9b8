import { UserError } from "../../base/errors.ts";
import { HELP_GROUPS, type TrainConfig, trainConfigSchema } from "../../train/config.ts";
import { run as runTraining } from "../../train/run/run.ts";
import { recipesFolder } from "../flags/bundled.ts";
import { findConfig, readConfigFile, validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { createDisplay } from "../terminal/display.ts";
import { withSignals } from "../terminal/signals.ts";

/** What `remat train` without a configuration runs. */
const DEFAULT_RECIPE = "devils-dictionary";

export { trainConfigSchema as flags };

export function help(): string {
  return `Fine-tunes a model.

Usage: remat train [CONFIG] [--flag value ...]

CONFIG is a .ts, .yaml or .json file with the flags' names as keys, a recipe's name, or a run folder: remat train RUN --resume.
Without CONFIG, --model and --data the bundled example is trained.

${describeFlags(trainConfigSchema, HELP_GROUPS)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { config, file, keys } = await resolveConfig(args);
  const { emit } = createDisplay(config.json, { file });
  return withSignals(async (signal) => {
    const { reason } = await runTraining(config, { sink: emit, signal, given: keys });
    return reason === "interrupted";
  });
}

/** The configuration, the file that it came from, and the keys that file or flags have. */
async function resolveConfig(
  args: readonly string[],
): Promise<{ readonly config: TrainConfig; readonly file: string | undefined; readonly keys: readonly string[] }> {
  const { values, words } = parseFlags(trainConfigSchema, args);
  if (words.length > 1)
    throw new UserError(`expected one configuration, got ${words.map((word) => JSON.stringify(word)).join(" and ")}`);
  const named = words[0] ?? (values["model"] === undefined && values["data"] === undefined ? DEFAULT_RECIPE : undefined);
  const file = named === undefined ? undefined : findConfig(named, recipesFolder);
  const fromFile = file === undefined ? {} : await readConfigFile(file);
  // The bundled example may be run again and again without thinking of folders.
  const implied = words.length === 0 && named === DEFAULT_RECIPE ? { overwrite: true } : {};
  const asked = { ...implied, ...fromFile, ...values };
  return { config: validateConfig(trainConfigSchema, asked, file), file, keys: Object.keys(asked) };
}
