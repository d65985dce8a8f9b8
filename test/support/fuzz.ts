import { heapStats } from "bun:jsc";
import { messageOf, UserError } from "../../src/base/errors.ts";
import { createRandom, type Random } from "../../src/base/random.ts";
import { collectGarbage } from "./garbage.ts";
import { SLOW } from "./slow.ts";

/**
 * Fuzzing of readers: seeded, mutated inputs, of which each must be read or refused with a `UserError`, soon and without
 * memory that an input's numbers ask for. Mutations know the format (values of JSON, fields of ONNX) or only bytes.
 */

/** Inputs per reader; `REMAT_INPUTS` names more. */
export const INPUTS = Number(process.env["REMAT_INPUTS"] ?? (SLOW ? 3000 : 500));

/** CPU seconds of the process that one input may take; a thousand times what it should. */
const MAX_SECONDS = 2;

/** Bytes of the largest array of one input: no input is larger than a tenth of it. */
const MAX_ARRAY = 1 << 20;

/** Bytes that may be kept of what was read, arrays included. The process itself grows by as much garbage as the engine sees fit. */
const MAX_KEPT = 32 << 20;

export interface FuzzCounts {
  readonly read: number;
  readonly refused: number;
}

/**
 * Makes and reads `INPUTS` inputs. Throws for one whose reading fails with anything but a `UserError`, takes too long or
 * makes a large array, and when much of what was read is kept. The key of the input's random numbers is in the error.
 */
export async function fuzz<Input>(
  name: string,
  make: (random: Random) => Input,
  read: (input: Input) => void | Promise<void>,
): Promise<FuzzCounts> {
  collectGarbage();
  const before = heapStats().heapSize;
  const arrays = watchArrays();
  let refused = 0;
  try {
    for (let i = 0; i < INPUTS; i++) {
      // Otherwise the garbage of all inputs, and of the tests before, would count.
      if (i % 1000 === 0) collectGarbage();
      const input = make(createRandom(i, name));
      const begin = process.cpuUsage();
      arrays.largest = 0;
      try {
        await read(input);
      } catch (error) {
        if (!(error instanceof UserError) || !isClear(error.message))
          throw new Error(`${name}, input ${i}: ${messageOf(error).slice(0, 500)}: ${shown(input)}`, { cause: error });
        refused++;
      }
      const { user, system } = process.cpuUsage(begin);
      if (user + system > MAX_SECONDS * 1e6)
        throw new Error(`${name}, input ${i} took ${(user + system) / 1e6} s: ${shown(input)}`);
      if (arrays.largest > MAX_ARRAY)
        throw new Error(`${name}, input ${i} made an array of ${arrays.largest} bytes: ${shown(input)}`);
    }
  } finally {
    arrays.stop();
  }
  collectGarbage();
  const kept = heapStats().heapSize - before;
  if (kept > MAX_KEPT) throw new Error(`${name}: ${kept} bytes of what was read are kept`);
  return { read: INPUTS - refused, refused };
}

/** Neither the engine's words for a bug, nor a message that nobody can read. */
function isClear(message: string): boolean {
  return message.length < 1500 && !/is not (a function|an object|iterable|defined)|call stack|out of memory/i.test(message);
}

function shown(input: unknown): string {
  return (input instanceof Uint8Array ? Buffer.from(input).toString("latin1") : JSON.stringify(input)).slice(0, 2000);
}

const ARRAYS = ["Uint8Array", "Int32Array", "Float32Array", "Float64Array", "ArrayBuffer", "SharedArrayBuffer"] as const;

/** Notes the size of each array that is made; memory that is reserved but not touched does not show in the process. */
function watchArrays(): { largest: number; stop(): void } {
  const originals = ARRAYS.map(
    (name) => [name, globalThis[name] as unknown as new (...args: unknown[]) => { byteLength: number }] as const,
  );
  const watch = {
    largest: 0,
    stop() {
      for (const [name, original] of originals)
        Object.defineProperty(globalThis, name, { value: original, writable: true, configurable: true });
    },
  };
  for (const [name, original] of originals) {
    const value = new Proxy(original, {
      construct(target, args, newTarget) {
        const made = Reflect.construct(target, args, newTarget === value ? target : newTarget) as { byteLength: number };
        watch.largest = Math.max(watch.largest, made.byteLength);
        return made;
      },
    });
    Object.defineProperty(globalThis, name, { value, writable: true, configurable: true });
  }
  return watch;
}

const pick = <T>(random: Random, items: readonly T[]): T => items[random.below(items.length)]!;

/** JSON texts of values that readers must not trust. */
const HOSTILE = [
  ..."null true 0 -1 -0 1.5 1e999 -1e999 1e-400 2000000000 4294967296 9007199254740993 18446744073709551615".split(" "),
  ...'"" "x" "-1" "NaN" "../../x" "/etc/passwd" "a/../../b" "C:\\\\x" "__proto__" "constructor" "\\u0000" "\\ud800"'.split(" "),
  ...'[] {} [null] [[]] [{}] [0,-1] ["x"] {"__proto__":{"x":1}} {"x":[1e999]} {"type":"x"} {"content":5}'.split(" "),
  JSON.stringify("long ".repeat(1000)),
  "[".repeat(20_000) + "]".repeat(20_000),
  '{"a":'.repeat(20_000) + "1" + "}".repeat(20_000),
];

const HOSTILE_MEMBERS = ['"__proto__":{"polluted":1}', '"constructor":{"prototype":1}', '"toString":null', '"":0'];

/** A value in a JSON text; `member` is where its key starts, when it is an object's. */
interface Span {
  readonly start: number;
  readonly end: number;
  readonly member: number | null;
  readonly isContainer: boolean;
}

/** Every value of a valid JSON text, the whole one last. */
export function jsonSpans(text: string): Span[] {
  const spans: Span[] = [];
  let at = 0;
  const stringEnd = (): void => {
    for (at++; text[at] !== '"'; at++) if (text[at] === "\\") at++;
    at++;
  };
  const skip = (pattern: RegExp): void => {
    while (at < text.length && pattern.test(text[at]!)) at++;
  };
  const value = (member: number | null): void => {
    skip(/\s/);
    const start = at;
    const open = text[at];
    if (open === '"') stringEnd();
    else if (open === "{" || open === "[") {
      at++;
      for (skip(/[\s,]/); text[at] !== "}" && text[at] !== "]"; skip(/[\s,]/)) {
        const key = at;
        if (open === "{") {
          stringEnd();
          skip(/[\s:]/);
        }
        value(open === "{" ? key : null);
      }
      at++;
    } else skip(/[^\s,\]}]/);
    spans.push({ start, end: at, member, isContainer: open === "{" || open === "[" });
  };
  value(null);
  return spans;
}

/** Changes one to three values of a valid JSON text: other values, missing, doubled, moved or hostile members. */
export function mutateJson(random: Random, text: string): string {
  let result = text;
  for (let left = 1 + random.below(3); left > 0; left--) {
    // Deep nesting is the last change: it would exhaust the stack here.
    if (result.length > 30_000) return result;
    let spans: Span[];
    try {
      JSON.parse(result);
      spans = jsonSpans(result);
    } catch {
      return result;
    }
    const { start, end, member, isContainer } = pick(random, spans);
    const replaced = (by: string): string => result.slice(0, start) + by + result.slice(end);
    const edits = [
      () => replaced(pick(random, HOSTILE)),
      () => replaced(pick(random, HOSTILE)),
      () => {
        const other = pick(random, spans);
        return replaced(result.slice(other.start, other.end));
      },
      () =>
        isContainer && result[start] === "{"
          ? replaced(`{${pick(random, HOSTILE_MEMBERS)},${result.slice(start + 1, end)}`)
          : replaced("[]"),
      // The member again with another value, which JSON.parse lets win; or its key alone is changed.
      () =>
        member === null
          ? replaced("0")
          : `${result.slice(0, end)},${result.slice(member, start)}${pick(random, HOSTILE)}${result.slice(end)}`,
      () => (member === null ? replaced("null") : `${result.slice(0, member + 1)}x${result.slice(member + 1)}`),
      () => mutateText(random, result),
    ];
    result = pick(random, edits)();
  }
  return result;
}

function mutateText(random: Random, text: string): string {
  const at = random.below(text.length + 1);
  const insert = pick(random, ["", '"', "{", "]", ",", "\\", "\u0000", "\ufeff", "\ud83d", "1e9"]);
  return text.slice(0, at) + insert + text.slice(at + random.below(8));
}

/** One to four changes of bytes: set, flip, cut, remove, insert, copy, the start of another seed, extreme numbers. */
export function mutateBytes(random: Random, seed: Uint8Array, others: readonly Uint8Array[] = [seed]): Uint8Array {
  let bytes = Buffer.from(seed);
  for (let left = 1 + random.below(4); left > 0 && bytes.length > 0; left--) {
    const at = random.below(bytes.length);
    const to = Math.min(bytes.length, at + 1 + random.below(40));
    const splice = (from: number, end: number, by: Uint8Array) =>
      Buffer.concat([bytes.subarray(0, from), by, bytes.subarray(end)]);
    const edits = [
      () => splice(at, at + 1, Uint8Array.of(random.below(256))),
      () => splice(at, at + 1, Uint8Array.of(bytes[at]! ^ (1 << random.below(8)))),
      () => Buffer.from(bytes.subarray(0, at)),
      () => splice(at, to, new Uint8Array(0)),
      () =>
        splice(
          at,
          at,
          Uint8Array.from({ length: 1 + random.below(8) }, () => random.below(256)),
        ),
      () => splice(at, at, bytes.subarray(at, to)),
      () => splice(random.below(bytes.length), bytes.length, pick(random, others).subarray(at)),
      () => splice(at, at + 4, pick(random, EXTREMES)),
    ];
    bytes = pick(random, edits)();
  }
  return Uint8Array.from(bytes);
}

/** Sizes, varints without an end, ends of UTF-8 sequences. */
const EXTREMES = [
  [0xff, 0xff, 0xff, 0xff],
  [0xff, 0xff, 0xff, 0x7f],
  [0, 0, 0, 0],
  [0, 0, 0, 0x80],
  Array.from({ length: 12 }, () => 0xff),
  Array.from({ length: 9 }, () => 0xff).concat(0x01),
  [0xed, 0xa0, 0x80],
].map((bytes) => Uint8Array.from(bytes));
