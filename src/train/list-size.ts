import { UserError } from "../base/errors.ts";
import type { MappingFlags } from "../data/examples/columns.ts";
import { readEntries } from "../data/examples/dataset.ts";
import { readMapping } from "../data/examples/formats.ts";
import { exampleFor, objectiveOf, type ObjectiveSettings } from "../objectives/index.ts";

/**
 * Settings of an objective that ranks texts with the most texts that a query of the files has, where they do not say it; as they are for any other
 * objective.
 * @throws {UserError} bad examples; a loss of several texts where no query has several
 */
export async function withListSize<S extends ObjectiveSettings & MappingFlags>(
  settings: S,
  files: readonly string[],
  signal: AbortSignal | undefined,
): Promise<S> {
  const objective = objectiveOf(settings);
  if (!objective.accepts.includes("ranked")) return settings;
  const listSize = settings.listSize ?? (await mostTexts(settings, files, signal));
  if (listSize > 1 || settings.rerankLoss === "bce") return { ...settings, listSize };
  throw new UserError(
    `--rerank-loss ${settings.rerankLoss} compares the texts of a query, and ${settings.listSize === undefined ? `no record of ${files.join(", ")} has several` : "--list-size is 1"}; write all texts of a query in one record, {"query", "pos", "neg"} or {"query", "docs", "labels"}, or take --rerank-loss bce`,
  );
}

async function mostTexts(
  settings: ObjectiveSettings & MappingFlags,
  files: readonly string[],
  signal: AbortSignal | undefined,
): Promise<number> {
  const objective = objectiveOf(settings);
  const reading = { mapping: readMapping(settings), unused: () => {} };
  let most = 1;
  for (const file of files) {
    for await (const { parse } of readEntries(file, reading)) {
      signal?.throwIfAborted();
      const example = exampleFor(objective, parse());
      if (example.kind === "ranked") most = Math.max(most, example.texts.length);
    }
  }
  return most;
}
