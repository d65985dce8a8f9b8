import type { Mapping } from "../../data/examples/columns.ts";
import { readEntries } from "../../data/examples/dataset.ts";
import { type Example, readMapping } from "../../data/examples/formats.ts";
import { findSplits, heldOutFiles, parseSources, trainingFiles } from "../../data/examples/sources.ts";
import { type HeldOutAmount, parseHeldOut, splitHeldOut } from "../../data/samples/held-out.ts";
import { groupSamples } from "../../data/samples/groups.ts";
import { withMismatched } from "../../data/samples/mismatched.ts";
import { mixSamples, samplesPerEpoch, type WeightedSet } from "../../data/samples/mix.ts";
import { type LoadedFile, loadSamples, type PrepareOptions } from "../../data/samples/prepare.ts";
import type { SampleMaker } from "../../data/samples/sample-maker.ts";
import type { SampleSet } from "../../data/samples/sample-store.ts";
import { UserError } from "../../base/errors.ts";
import type { Objective } from "../../objectives/objective.ts";
import type { TrainConfig } from "../config.ts";

/** The examples of a run. */
export interface LoadedData {
  /** `content` tells what it was made of: a run is resumed with the same. */
  readonly train: SampleSet & { readonly content: string };
  readonly valid: SampleSet | null;
  /** First held-out example, for a sample before and after. */
  readonly shown: Example | null;
}

/**
 * Reads and tokenizes the training examples and those that are held out: of files of their own, or a part of the former. The texts of an
 * example stay together, where the objective has several; mismatched ones are made of examples of the same set.
 * @throws {UserError} anything that is missing or does not fit
 */
export async function loadData(
  config: Pick<TrainConfig, "data" | "valid" | "seed" | "loadBest" | "columns" | "roles" | "batchSize" | "packing">,
  {
    maker,
    objective: { name, texts, mismatched },
    maxLength,
  }: { readonly maker: SampleMaker; readonly objective: Objective; readonly maxLength: number },
  options: PrepareOptions,
): Promise<LoadedData> {
  const mapping = readMapping(config);
  const sources = parseSources(config.data).flatMap(({ path, weight }) => trainingFiles(path).map((file) => ({ file, weight })));
  const amount = config.valid === undefined ? null : parseHeldOut(config.valid);
  const paths = config.valid === undefined ? filesBeside(config.data) : amount ? [] : heldOutFiles(config.valid);
  if (config.loadBest && paths.length === 0 && !amount) {
    throw new UserError("--load-best needs held-out examples: give --valid, or a valid.jsonl beside the training file");
  }
  const loadAll = async (all: readonly string[]): Promise<LoadedFile[]> => {
    const files: LoadedFile[] = [];
    for (const path of all) {
      const file = await loadSamples(path, maker, { ...options, mapping });
      files.push(texts === 1 ? file : { ...groupSamples(file, texts), content: file.content });
    }
    return files;
  };
  const files = await loadAll(sources.map(({ file }) => file));
  const split = amount ? splitHeldOut(files, amount, config.seed) : null;
  const kept = (split?.train ?? files).map((set, i) => ({ set, weight: sources[i]!.weight }));
  const whole = contentOf(sources.map(({ weight }, i) => ({ content: files[i]!.content, weight })));
  const held = split ? split.valid : paths.length === 0 ? null : await loadAll(paths);
  const shown = split?.first
    ? { path: sources[split.first.file]!.file, number: split.first.number }
    : paths.length > 0
      ? { path: paths[0]!, number: 1 }
      : null;
  if (mismatched && config.batchSize === 1 && !config.packing)
    options.onNote?.(
      `--batch-size 1: ${name} estimates from a single example how far the model has moved; --batch-size 4 or more gives it better estimates`,
    );
  const arranged = (set: SampleSet): SampleSet =>
    mismatched ? withMismatched(set, { group: Math.max(2, config.batchSize), maxLength }) : set;
  return {
    train: { ...arranged(mixed(kept)), content: amount ? partOf(whole, amount, config.seed) : whole },
    valid: held && arranged(mixed(held.map((set) => ({ set, weight: 1 })))),
    shown: shown && (await exampleFrom(shown.path, shown.number, mapping)),
  };
}

/** Indices of an epoch's samples are 32-bit numbers. */
const MOST_SAMPLES = 2 ** 31 - 1;

function mixed(sets: readonly WeightedSet[]): SampleSet {
  const count = samplesPerEpoch(sets);
  if (count === 0 || count > MOST_SAMPLES) {
    throw new UserError(
      `--data: with these weights an epoch has ${count} of the ${sets.reduce((sum, { set }) => sum + set.count, 0)} examples; expected 1 to ${MOST_SAMPLES}: ${count === 0 ? "raise" : "lower"} a weight`,
    );
  }
  return sets.length === 1 && sets[0]!.weight === 1 ? sets[0]!.set : mixSamples(sets);
}

const hash = (text: string): string => new Bun.CryptoHasher("sha256").update(text).digest("hex");

function contentOf(files: readonly { readonly content: string; readonly weight: number }[]): string {
  if (files.length === 1 && files[0]!.weight === 1) return files[0]!.content;
  return hash(files.map(({ content, weight }) => `${content}=${weight}`).join());
}

function partOf(content: string, amount: HeldOutAmount, seed: number): string {
  return hash(`${content} without ${JSON.stringify(amount)} by ${seed}`);
}

/** Held-out files that lie beside the training files, or in their folders. */
function filesBeside(data: string): string[] {
  const splits = parseSources(data).map(({ path }) => findSplits(path));
  const trained = new Set(splits.flatMap(({ train }) => train));
  return [...new Set(splits.flatMap(({ valid }) => valid))].filter((file) => !trained.has(file));
}

/** The first example at a line, item or row, or behind it. */
async function exampleFrom(path: string, from: number, mapping: Mapping): Promise<Example | null> {
  for await (const { number, parse } of readEntries(path, { mapping, unused: () => {} })) if (number >= from) return parse();
  return null;
}
