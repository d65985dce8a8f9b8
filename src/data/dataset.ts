import { existsSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { messageOf, UserError } from "../errors.ts";
import { fileError, isRecord, jsonKind, readText } from "../hf/files.ts";
import { exampleOf, parseExample, type Example } from "./formats.ts";
import { readLines } from "./lines.ts";
import { IGNORED, type Sample } from "./sample.ts";

/** The files of a data source; a split that is not there is null. */
export interface Splits {
  readonly train: string;
  readonly valid: string | null;
  readonly test: string | null;
}

/**
 * A folder holds `train.jsonl` and maybe `valid.jsonl` and `test.jsonl`; beside a file, the latter two are looked for too.
 * @throws {UserError} nothing there
 */
export function findSplits(path: string): Splits {
  let isFolder: boolean;
  try {
    isFolder = statSync(path).isDirectory();
  } catch (error) {
    throw fileError("read the data at", path, error);
  }
  const folder = isFolder ? path : dirname(path);
  const train = isFolder ? join(path, "train.jsonl") : path;
  if (!existsSync(train))
    throw new UserError(`${path}: a data folder must hold train.jsonl (and may hold valid.jsonl and test.jsonl)`);
  const split = (name: string) => {
    const file = join(folder, name);
    return file !== train && existsSync(file) ? file : null;
  };
  return { train, valid: split("valid.jsonl"), test: split("test.jsonl") };
}

/**
 * The examples of a JSONL file, or of a `.json` file that holds one array.
 * @throws {UserError} at the first bad one, with file and line
 */
export function* readExamples(path: string): Generator<Example> {
  if (path.endsWith(".json")) {
    const items = parseArray(path);
    for (const [i, item] of items.entries()) {
      const where = `${path}, item ${i + 1}`;
      if (!isRecord(item)) throw new UserError(`${where}: expected an object, got ${jsonKind(item)}`);
      yield exampleOf(item, where);
    }
    return;
  }
  for (const line of readLines(path)) yield parseExample(line.text, `${path}:${line.number}`);
}

function parseArray(path: string): readonly unknown[] {
  let value: unknown;
  try {
    value = JSON.parse(readText(path));
  } catch (error) {
    if (error instanceof UserError) throw error;
    throw new UserError(`${path} is not valid JSON: ${messageOf(error)}; a file with one object per line is named .jsonl`);
  }
  if (!Array.isArray(value)) throw new UserError(`${path}: expected an array of examples, got ${jsonKind(value)}`);
  return value;
}

/** Tokenized examples in the order of the data. */
export interface SampleSet {
  readonly count: number;
  /** Tokens of each sample. */
  readonly lengths: Int32Array;
  readonly tokens: number;
  /** Tokens that a model learns to predict: labelled ones that are not first in their sample. */
  readonly labelled: number;
  sample(index: number): Sample;
}

/**
 * Reads and tokenizes a file.
 * @throws {UserError} bad examples, or none at all
 */
export function loadSamples(path: string, sampler: (example: Example) => Sample[]): SampleSet {
  const store = createSampleStore();
  for (const example of readExamples(path)) for (const sample of sampler(example)) store.add(sample);
  const set = store.finish();
  if (set.count === 0) throw new UserError(`${path} holds no examples`);
  return set;
}

/** Tokens per block of memory; blocks keep growth from copying. */
const BLOCK = 1 << 20;

/** Collects samples compactly: five bytes a token. */
export function createSampleStore(): { add(sample: Sample): void; finish(): SampleSet } {
  const blocks: { ids: Int32Array; trained: Uint8Array; used: number }[] = [];
  const places: { block: number; at: number; where: string }[] = [];
  const lengths: number[] = [];
  let tokens = 0;
  let labelled = 0;
  return {
    add({ ids, labels, where }) {
      let block = blocks.at(-1);
      if (!block || block.used + ids.length > block.ids.length) {
        const size = Math.max(BLOCK, ids.length);
        block = { ids: new Int32Array(size), trained: new Uint8Array(size), used: 0 };
        blocks.push(block);
      }
      block.ids.set(ids, block.used);
      for (let i = 0; i < ids.length; i++) {
        if (labels[i] === IGNORED) continue;
        block.trained[block.used + i] = 1;
        if (i > 0) labelled++;
      }
      places.push({ block: blocks.length - 1, at: block.used, where });
      lengths.push(ids.length);
      block.used += ids.length;
      tokens += ids.length;
    },
    finish: () => ({
      count: places.length,
      lengths: Int32Array.from(lengths),
      tokens,
      labelled,
      sample(index) {
        const { block, at, where } = places[index]!;
        const { ids: all, trained } = blocks[block]!;
        const ids = all.slice(at, at + lengths[index]!);
        return { ids, labels: ids.map((id, i) => (trained[at + i] ? id : IGNORED)), where };
      },
    }),
  };
}
