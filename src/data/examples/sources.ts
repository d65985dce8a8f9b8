import { existsSync, readdirSync, statSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { messageOf, UserError } from "../../base/errors.ts";
import { fileError } from "../../base/files/files.ts";
import { show } from "../../base/json.ts";
import { foreignFolder, hubDataset, onlyOnce } from "./wrong-files.ts";

/** The files of a data source by what they are for; a split that is not there is empty. */
export interface Splits {
  readonly train: readonly string[];
  readonly valid: readonly string[];
  readonly test: readonly string[];
}

/** First words of files' names, as Hugging Face's datasets and MLX-LM understand them. */
const SPLITS: Readonly<Record<keyof Splits, readonly string[]>> = {
  train: ["train", "training"],
  valid: ["valid", "validation", "val", "dev"],
  test: ["test", "testing", "eval", "evaluation"],
};

/** Endings of files that examples are read from. */
const ENDINGS = ["jsonl", "json", "csv", "tsv", "parquet"];

/** Files beside data sets that describe them. */
const DESCRIPTIONS = [
  "dataset_info.json",
  "dataset_infos.json",
  "dataset_dict.json",
  "state.json",
  "config.json",
  "package.json",
];

const isData = (name: string): boolean =>
  !name.startsWith(".") && ENDINGS.includes(endingOf(name)) && !DESCRIPTIONS.includes(name);

const endingOf = (name: string): string => /\.(\w+)$/.exec(name)?.[1]?.toLowerCase() ?? "";

/** The split that a file's name says, such as `train.csv` and `train-00000-of-00002.parquet`; null where it says none. */
function splitOf(name: string): keyof Splits | null {
  const [word = ""] = /^[a-z]+/.exec(name.toLowerCase()) ?? [];
  if (/[a-z0-9]/i.test(name.charAt(word.length))) return null;
  return (Object.keys(SPLITS) as (keyof Splits)[]).find((split) => SPLITS[split].includes(word)) ?? null;
}

/**
 * Finds the files of a source: a file (beside which held-out ones are looked for), a folder or a pattern. A folder's files belong to
 * the split that their names begin with; without one of the training split, all that have no split's name are training examples. A
 * folder without data files may have them in `data`, as on the hub.
 * @throws {UserError} no such file or folder, no file that fits a pattern
 */
export function findSplits(path: string): Splits {
  if (path === "-") throw onlyOnce("standard input", path);
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat && isPattern(path)) return { train: matching(path), valid: [], test: [] };
  if (!stat) {
    // The reason that the system gives.
    try {
      statSync(path);
    } catch (error) {
      throw new UserError(`${messageOf(fileError("read the data at", path, error))}${explain(hubDataset(path))}`);
    }
  }
  if (stat!.isDirectory()) return splitsOfFolder(path);
  const beside = (split: "valid" | "test"): string[] => {
    const names = SPLITS[split].flatMap((word) => ENDINGS.map((ending) => `${word}.${ending}`));
    const found = names.map((name) => join(dirname(path), name)).find((file) => existsSync(file));
    return found === undefined || basename(found) === basename(path) ? [] : [found];
  };
  return { train: [path], valid: beside("valid"), test: beside("test") };
}

function splitsOfFolder(path: string): Splits {
  let [folder, names] = [path, dataFiles(path)];
  const inner = join(path, "data");
  if (names.length === 0 && isFolder(inner)) [folder, names] = [inner, dataFiles(inner)];
  const files = (split: keyof Splits | null): string[] => {
    const own = names.filter((name) => splitOf(name) === split);
    // What MLX-LM reads comes before everything of the same kind.
    const plain = own.filter((name) => split !== null && SPLITS[split].some((word) => name === `${word}.jsonl`));
    return (plain.length > 0 ? plain.slice(0, 1) : own).map((name) => join(folder, name));
  };
  const named = files("train");
  const train = named.length > 0 ? named : files(null);
  refuseTwins(path, train);
  const [valid, test] = [files("valid"), files("test")];
  refuseTwins(path, valid);
  refuseTwins(path, test);
  return { train, valid, test };
}

/** @throws {UserError} files that differ in their ending only, which are the same examples in two forms */
function refuseTwins(folder: string, files: readonly string[]): void {
  const stems = files.map((file) => file.slice(0, -endingOf(file).length));
  const twin = stems.findIndex((stem, i) => stems.indexOf(stem) !== i);
  if (twin < 0) return;
  const first = files[stems.indexOf(stems[twin]!)]!;
  throw new UserError(
    `${folder} holds ${basename(first)} and ${basename(files[twin]!)}, which look like the same examples twice; name the files that are meant, with commas between them`,
  );
}

function dataFiles(folder: string): string[] {
  return readdirSync(folder).filter(isData).sort();
}

const isPattern = (path: string): boolean => /[*?[\]{}]/.test(path);

/** @throws {UserError} nothing fits */
function matching(pattern: string): string[] {
  const parts = pattern.split("/");
  const fixed = parts.findIndex(isPattern);
  const folder = parts.slice(0, fixed).join("/") || (pattern.startsWith("/") ? "/" : ".");
  let found: string[] = [];
  if (isFolder(folder)) found = [...new Bun.Glob(parts.slice(fixed).join("/")).scanSync({ cwd: folder, onlyFiles: true })];
  if (found.length === 0) throw new UserError(`--data ${pattern}: no file fits the pattern`);
  return found.sort().map((name) => (fixed === 0 ? name : join(folder, name)));
}

/** Files to evaluate on: of a folder its `test` split, else `valid`; all others as they stand. @throws {UserError} */
export function evaluationFiles(text: string): string[] {
  return filesOf(
    text,
    ["test", "valid"],
    "a folder to evaluate on must hold test.jsonl or valid.jsonl (or .csv, .json, .parquet)",
  );
}

/** Files of `--valid`: of a folder its `valid` split, else `test`, else all of it. @throws {UserError} */
export function heldOutFiles(text: string): string[] {
  return filesOf(text, ["valid", "test", "train"], "the folder holds no examples");
}

/** Files of prompts: of a folder its `test` split, else `valid`, else all of it. @throws {UserError} */
export function promptFiles(text: string): string[] {
  return filesOf(text, ["test", "valid", "train"], "the folder holds no examples");
}

/** All files of sources, of folders those of every split. @throws {UserError} */
export function allFiles(text: string): string[] {
  return parseSources(text).flatMap(({ path }) => {
    const { train, valid, test } = findSplits(path);
    const files = isFolder(path) ? [...train, ...valid, ...test] : train;
    return files.length > 0 ? files : trainingFiles(path);
  });
}

/** Files of training examples of one source, of a folder those of its training split. @throws {UserError} */
export function trainingFiles(path: string): readonly string[] {
  const { train } = findSplits(path);
  if (train.length > 0) return train;
  throw new UserError(
    `${path}: a data folder must hold train.jsonl (and may hold valid.jsonl and test.jsonl), or other files of examples (${ENDINGS.join(", ")})${explain(foreignFolder(path))}`,
  );
}

function filesOf(text: string, order: readonly (keyof Splits)[], otherwise: string): string[] {
  return parseSources(text).flatMap(({ path }) => {
    const splits = findSplits(path);
    if (!isFolder(path)) return splits.train;
    const split = order.find((name) => splits[name].length > 0);
    if (split === undefined) throw new UserError(`${path}: ${otherwise}; or name a file${explain(foreignFolder(path))}`);
    return splits[split];
  });
}

const isFolder = (path: string): boolean => statSync(path, { throwIfNoEntry: false })?.isDirectory() === true;

function explain(reason: string | null): string {
  return reason === null ? "" : `; ${reason}`;
}

/** A data source and how often an epoch goes through it (see `mixSamples`). */
export interface Source {
  readonly path: string;
  readonly weight: number;
}

/**
 * Reads `a.jsonl`, or several sources with weights: `a.jsonl=2,b.csv=0.5,more/*.parquet`. A path that exists is taken as it stands.
 * @throws {UserError} a weight that is no number above 0
 */
export function parseSources(text: string): Source[] {
  if (existsSync(text)) return [{ path: text, weight: 1 }];
  return splitSources(text).map((part) => {
    const [, path, number] = /^(.+)=([^=/]*)$/.exec(part) ?? [];
    if (path === undefined || existsSync(part)) return { path: part, weight: 1 };
    const weight = Number(number);
    if (number === "" || !(weight > 0 && Number.isFinite(weight))) {
      throw new UserError(`--data: the weight of ${path} must be a number above 0, got ${show(number)}`);
    }
    return { path, weight };
  });
}

/** Cuts a list of sources at its commas, but at those within a pattern's braces. */
export function splitSources(text: string): string[] {
  return text.split(/,(?![^{}]*\})/).map((part) => part.trim());
}
