import { existsSync, readdirSync, readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { openSafetensors, readBytes } from "../../src/hf/weights/safetensors.ts";
import { readGguf } from "../../test/support/gguf.ts";

/** `bytes`: all files are the same. `tensors`: tensors and recorded values are, wherever and beside whatever they are written. */
export type Mode = "bytes" | "tensors";

export interface Comparison {
  /** Files that were compared. */
  readonly files: number;
  /** Files that a comparison of tensors has nothing to compare in. */
  readonly passedOver: readonly string[];
  /** The differences, a line each. */
  readonly differences: readonly string[];
}

type Json = Readonly<Record<string, unknown>>;

/** Values of events that depend on the clock or on the rest of the machine. */
const TIMES: ReadonlySet<string> = new Set(["seconds", "forwardBackward", "tokensPerSecond", "secondsLeft", "processPeak"]);

/** Values that depend on the schedule besides, which may change during a run that measures its times. */
const SCHEDULED: ReadonlySet<string> = new Set([...TIMES, "memory", "offload", "predictedPeak", "measuredPeak"]);

/** Measured times, by which a run is planned, and a page that shows times. */
const LEFT_OUT: ReadonlySet<string> = new Set(["costs.json", "report.html"]);

/** Compares what a case wrote in two folders. `measured`: its schedule depends on times. */
export function compareFolders(left: string, right: string, mode: Mode, measured: boolean): Comparison {
  const [a, b] = [filesOf(left), filesOf(right)];
  const differences: string[] = [];
  const passedOver: string[] = [];
  let files = 0;
  const dropped = measured ? SCHEDULED : TIMES;
  for (const name of [...new Set([...a, ...b])].sort()) {
    if (mode === "tensors" && isLayout(name)) {
      passedOver.push(name);
      continue;
    }
    if (!a.has(name) || !b.has(name)) {
      // A later version may write more than an earlier one.
      if (mode === "tensors" && !a.has(name)) passedOver.push(name);
      else differences.push(`${name}: only in the ${a.has(name) ? "first" : "second"}`);
      continue;
    }
    files++;
    const difference = compareFiles(join(left, name), join(right, name), mode, dropped);
    if (difference !== null) differences.push(`${name}: ${difference}`);
  }
  if (mode === "tensors") {
    const [first, second] = [checkpointsOf(left, a), checkpointsOf(right, b)];
    for (const name of new Set([...first.keys(), ...second.keys()])) {
      files++;
      const difference = compareCheckpoints(first.get(name) ?? [], second.get(name) ?? []);
      if (difference !== null) differences.push(`${name}: ${difference}`);
    }
  }
  return { files, passedOver, differences };
}

function filesOf(folder: string): ReadonlySet<string> {
  if (!existsSync(folder)) return new Set();
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true });
  const names = entries.filter((entry) => entry.isFile() && !LEFT_OUT.has(entry.name));
  return new Set(names.map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1)));
}

/** Tells whether a file only says how things are laid out: programs, settings with all their keys, checkpoints. */
function isLayout(name: string): boolean {
  return /(^|\/)(segments|checkpoints)\//.test(name) || /(^|\/)(train-config\.json|(.*\.)?Modelfile)$/.test(name);
}

/** A text that says how two files differ, or null. */
function compareFiles(left: string, right: string, mode: Mode, dropped: ReadonlySet<string>): string | null {
  const name = basename(left);
  if (name === "metrics.jsonl" || name === "events.jsonl") return compareEvents(left, right, mode, dropped);
  const [a, b] = [readFileSync(left), readFileSync(right)];
  if (a.equals(b)) return null;
  if (mode === "tensors" && name.endsWith(".safetensors")) return compareTensors(tensorsOf([left]), tensorsOf([right]));
  if (mode === "tensors" && name.endsWith(".gguf")) return compareGguf(left, right);
  if (mode === "tensors" && name.endsWith(".json"))
    return missing(JSON.parse(a.toString()) as Json, JSON.parse(b.toString()) as Json);
  const at = a.findIndex((byte, i) => byte !== b[i]);
  return `${a.length} and ${b.length} bytes, the first that differs is at ${at < 0 ? a.length : at}`;
}

/** The first key of `left` that `right` has otherwise. */
function missing(left: Json, right: Json): string | null {
  for (const [key, value] of Object.entries(left))
    if (!isDeepStrictEqual(value, right[key])) return `${key} is ${JSON.stringify(value)} and ${JSON.stringify(right[key])}`;
  return null;
}

function compareEvents(left: string, right: string, mode: Mode, dropped: ReadonlySet<string>): string | null {
  const records = (path: string): Json[] =>
    readFileSync(path, "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Json)
      .map((record) => Object.fromEntries(Object.entries(record).filter(([key]) => !dropped.has(key))));
  const [a, b] = [records(left), records(right)];
  if (a.length !== b.length) return `${a.length} and ${b.length} records`;
  for (const [i, record] of a.entries()) {
    const other = b[i]!;
    const difference =
      mode === "tensors" || JSON.stringify(record) === JSON.stringify(other)
        ? missing(record, other)
        : (missing(record, other) ?? missing(other, record) ?? "another order of keys");
    if (difference !== null) return `record ${i + 1}: ${difference}`;
  }
  return null;
}

interface Tensor {
  readonly type: string;
  readonly shape: readonly number[];
  readonly bytes: Uint8Array;
}

function tensorsOf(paths: readonly string[]): Map<string, Tensor> {
  const tensors = new Map<string, Tensor>();
  for (const path of paths) {
    const source = openSafetensors(path);
    for (const [name, entry] of source.tensors)
      tensors.set(name, { type: entry.stored, shape: entry.shape, bytes: readBytes(source, entry) });
    source.close();
  }
  return tensors;
}

function compareTensors(left: ReadonlyMap<string, Tensor>, right: ReadonlyMap<string, Tensor>): string | null {
  for (const [name, a] of left) {
    const b = right.get(name);
    if (!b) return `the second has no ${name}`;
    if (a.type !== b.type || !isDeepStrictEqual(a.shape, b.shape))
      return `${name} is ${a.type} [${a.shape.join(", ")}] and ${b.type} [${b.shape.join(", ")}]`;
    const at = a.bytes.findIndex((byte, i) => byte !== b.bytes[i]);
    if (at >= 0) return `${name} differs from byte ${at} on`;
  }
  const more = [...right.keys()].filter((name) => !left.has(name));
  return more.length > 0 ? `the first has no ${more.join(", ")}` : null;
}

function compareGguf(left: string, right: string): string | null {
  const [a, b] = [readGguf(left), readGguf(right)];
  const metadata = missing(Object.fromEntries(a.metadata), Object.fromEntries(b.metadata));
  if (metadata !== null) return metadata;
  const tensors = ({ tensors: entries }: typeof a) =>
    new Map(
      [...entries].map(([name, entry]) => {
        const values = entry.values();
        const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
        return [name, { type: String(entry.type), shape: entry.shape, bytes }] as const;
      }),
    );
  return compareTensors(tensors(a), tensors(b));
}

/** The files with tensors of each checkpoint. */
function checkpointsOf(folder: string, files: ReadonlySet<string>): Map<string, string[]> {
  const found = new Map<string, string[]>();
  for (const name of files) {
    const checkpoint = /^.*\/?checkpoints\/step-\d+(?=\/.*\.safetensors$)/.exec(name)?.[0];
    if (checkpoint !== undefined) found.set(checkpoint, [...(found.get(checkpoint) ?? []), join(folder, name)]);
  }
  return found;
}

/**
 * Compares checkpoints by the names of their tensors; where the names differ, as the multiset of all their 32-bit words but
 * zeros, which may be gaps: the same numbers under other names and in another order.
 */
function compareCheckpoints(left: readonly string[], right: readonly string[]): string | null {
  if (left.length === 0 || right.length === 0) return `only in the ${left.length > 0 ? "first" : "second"}`;
  const [a, b] = [tensorsOf(left), tensorsOf(right)];
  if (isDeepStrictEqual(new Set(a.keys()), new Set(b.keys()))) return compareTensors(a, b);
  const words = (tensors: ReadonlyMap<string, Tensor>) => {
    const all = [...tensors.values()].map(({ bytes }) => bytes.slice());
    const lists = all.map((bytes) => new Uint32Array(bytes.buffer, 0, bytes.length >> 2).filter((word) => word !== 0));
    return Buffer.concat(lists.map((list) => new Uint8Array(list.buffer, 0, list.byteLength)));
  };
  const sorted = (bytes: Buffer) => new Uint32Array(new Uint8Array(bytes).buffer).sort();
  const [first, second] = [sorted(words(a)), sorted(words(b))];
  if (first.length !== second.length) return `${first.length} and ${second.length} numbers that are not 0`;
  const different = first.reduce((count, word, i) => count + Number(word !== second[i]), 0);
  return different > 0 ? `other numbers under other names` : null;
}
