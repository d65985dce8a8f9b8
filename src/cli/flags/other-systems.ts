import { basename, dirname } from "node:path";
import { UserError } from "../../base/errors.ts";
import { camelCase, flagName, suggestion } from "../../base/names.ts";
import { AXOLOTL, axolotlDefaults } from "./systems/axolotl.ts";
import { type Counterpart, isOff, type Meaning, type Settings, type Table, verbFlag } from "./systems/counterpart.ts";
import { needlessKeys } from "../../train/config.ts";
import { HUGGING_FACE, LLAMA_FACTORY, LLAMA_FACTORY_DEFAULTS, trlDefaults, trlDiffers } from "./systems/hugging-face.ts";
import { ACCELERATE, DEEPSPEED, LLAMA_CPP, MLX, UNSLOTH, XTUNER } from "./systems/others.ts";

/**
 * Describes what flags and keys of other systems are here: one table of names for each system. An unknown flag or key is answered from
 * them, configuration files of these systems are read by them, and a test compares docs/coming-from.md with them.
 */
export interface System {
  /** As its section in docs/coming-from.md is called. */
  readonly name: string;
  readonly table: Table;
  /** How its configuration files are known; null for one that has none here. */
  readonly file: SystemFile | null;
}

interface SystemFile {
  readonly isOne: (written: Readonly<Record<string, unknown>>) => boolean;
  /** The system's behaviour where a file says nothing and Remat's own differs; null: such a file alone makes no run. */
  readonly defaults: ((written: Readonly<Record<string, unknown>>) => Settings) | null;
  /** The differences that no setting removes. */
  readonly differs?: (written: Readonly<Record<string, unknown>>) => string | null;
}

const hasAny =
  (...keys: string[]) =>
  (written: Readonly<Record<string, unknown>>): boolean =>
    keys.some((key) => Object.hasOwn(written, key));

/** In the order in which a file is compared with them. */
export const SYSTEMS: readonly System[] = [
  {
    name: "LLaMA-Factory",
    table: LLAMA_FACTORY,
    file: { isOne: hasAny("finetuning_type", "cutoff_len", "dataset_dir"), defaults: () => LLAMA_FACTORY_DEFAULTS },
  },
  {
    name: "TRL and PEFT",
    table: HUGGING_FACE,
    file: { isOne: hasAny("model_name_or_path"), defaults: trlDefaults, differs: trlDiffers },
  },
  { name: "axolotl", table: AXOLOTL, file: { isOne: hasAny("base_model"), defaults: axolotlDefaults } },
  {
    name: "MLX-LM",
    table: MLX,
    file: { isOne: hasAny("lora_parameters", "fine_tune_type", "iters"), defaults: () => ({ packing: false }) },
  },
  { name: "XTuner", table: XTUNER, file: null },
  { name: "Unsloth", table: UNSLOTH, file: null },
  { name: "llama.cpp", table: LLAMA_CPP, file: null },
  {
    name: "DeepSpeed",
    table: DEEPSPEED,
    file: { isOne: hasAny("zero_optimization", "train_micro_batch_size_per_gpu", "train_batch_size"), defaults: null },
  },
  { name: "accelerate", table: ACCELERATE, file: { isOne: hasAny("compute_environment", "distributed_type"), defaults: null } },
];

const VERBS: Readonly<Record<string, string>> = {
  train: "lora finetune fine-tune sft",
  merge: "fuse merge-lora merge-and-unload",
  chat: "inference run",
  eval: "evaluate perplexity test",
  data: "preprocess dataset",
};

/** Names that are another thing with another verb than with `train`. */
const OF_VERBS: Table = { adapter_path: verbFlag("--adapter"), lora_model_dir: verbFlag("--adapter") };

const plain = (name: string): string => name.toLowerCase().replaceAll(/[^a-z0-9]/g, "");

let byName: Map<string, Counterpart[]> | null = null;

/** All that a name may be, over all systems. */
function meaningsOf(name: string): readonly Counterpart[] {
  if (!byName) {
    byName = new Map();
    for (const table of [...SYSTEMS.map((system) => system.table), OF_VERBS])
      for (const [key, counterpart] of Object.entries(table))
        byName.set(plain(key), [...(byName.get(plain(key)) ?? []), counterpart]);
  }
  return byName.get(plain(name)) ?? [];
}

/** Describes what a flag or key of another system is here. */
export interface Found {
  /** A flag that there is, with its value if it has one. */
  readonly flag: string | null;
  /** Why there is none, or what is wrong with the value. */
  readonly why: string | null;
}

/**
 * Returns what a flag or key of another system is here: a flag of `known` (names with `--`), or a sentence. Null for a name that is not
 * known from elsewhere, or has no counterpart in `known`.
 * @param value that is given with it, if any
 */
export function counterpartOf(name: string, known: readonly string[], value?: string): Found | null {
  const all = meaningsOf(name);
  const named = all.find(({ flag }) => flag !== null && known.includes(flag.replace(/^--no-/, "--").split(" ")[0]!));
  if (named) {
    const meaning = value === undefined ? null : named.read(valueOf(value), ".", {});
    return { flag: named.flag, why: meaning && "problem" in meaning ? meaning.problem : null };
  }
  const why = all.find((counterpart) => counterpart.flag === null)?.why;
  return why ? { flag: null, why } : null;
}

/** A flag's text as a file might have it. */
function valueOf(text: string): unknown {
  if (/^(true|false)$/i.test(text)) return text.toLowerCase() === "true";
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

/** The verb that does here what one of that name does elsewhere; null for others. */
export function verbFor(name: string): string | null {
  return Object.keys(VERBS).find((verb) => VERBS[verb]!.split(" ").some((other) => plain(other) === plain(name))) ?? null;
}

/** A configuration file of another system as one of ours. */
export interface Translation {
  readonly config: Readonly<Record<string, unknown>>;
  /** Sentences that a user should read. */
  readonly notes: readonly string[];
}

/**
 * Reads a configuration file of another system; null where it is none. Keys of ours may stand in it too.
 * @param written keys and values of the file
 * @param ours keys of a configuration here
 * @throws {UserError} one error that names every key without a counterpart, with what to do
 */
export function translate(
  file: string,
  written: Readonly<Record<string, unknown>>,
  ours: ReadonlySet<string>,
): Translation | null {
  const system = SYSTEMS.find((one) => one.file?.isOne(written));
  if (!system?.file) return null;
  const { settings, notes, problems } = read(system.table, written, ours, dirname(file));
  const { defaults } = system.file;
  if (!defaults) {
    throw new UserError(
      `${file} is a configuration of ${system.name}, which does not say what is trained; remat train takes model, data and these:\n${linesOf({ settings, problems })}`,
    );
  }
  if (problems.length > 0) {
    const count = Object.keys(written).length;
    throw new UserError(
      `${file} is a configuration of ${system.name}; ${problems.length} of its ${count} keys ${problems.length === 1 ? "has" : "have"} no counterpart here:\n` +
        `${problems.map(([key, text]) => `  ${key}: ${text}`).join("\n")}\nRemove or change them; the others are read as they are.`,
    );
  }
  const different = system.file.differs?.(written) ?? null;
  const implied = Object.entries(defaults(written)).filter(([key]) => !Object.hasOwn(settings, key));
  const said = implied.map(([key, value]) => `${flagName(key).slice(2)} ${Array.isArray(value) ? value.join() : String(value)}`);
  const config: Record<string, unknown> = { ...Object.fromEntries(implied), ...settings };
  const needless = needlessKeys(config);
  for (const key of needless) delete config[key];
  const left = `${needless.map((key) => flagName(key).slice(2)).join(", ")}: left out, since method ${String(config["method"])} has no such setting`;
  return {
    config,
    notes: [
      `${basename(file)} is read as a configuration of ${system.name}${said.length === 0 ? "" : `; what it does not say is as there: ${said.join(", ")}`}`,
      ...(different === null ? [] : [different]),
      ...(needless.length === 0 ? [] : [left]),
      ...notes,
    ],
  };
}

interface Reading {
  readonly settings: Readonly<Record<string, unknown>>;
  readonly notes: readonly string[];
  /** Keys with what to do about them. */
  readonly problems: readonly (readonly [key: string, text: string])[];
}

/** Keys are read in the order of the table, so that of two for one setting the later one there counts. */
function read(table: Table, written: Readonly<Record<string, unknown>>, ours: ReadonlySet<string>, folder: string): Reading {
  const settings: Record<string, unknown> = {};
  const notes = new Set<string>();
  const problems: (readonly [string, string])[] = [];
  const left = new Map(Object.entries(written).map(([key, value]) => [plain(key), [key, value] as const]));
  for (const [name, counterpart] of Object.entries(table)) {
    const found = left.get(plain(name));
    if (!found) continue;
    left.delete(plain(name));
    const [key, value] = found;
    const meaning: Meaning = counterpart.read(value, folder, settings as Settings);
    if ("problem" in meaning) problems.push([key, meaning.problem]);
    else {
      Object.assign(settings, meaning.set);
      if (meaning.note !== undefined) notes.add(`${key}: ${meaning.note}`);
    }
  }
  for (const [key, value] of left.values()) {
    if (ours.has(camelCase(key))) settings[camelCase(key)] = value;
    else if (!isOff(value)) problems.push([key, unknown(key, Object.keys(table))]);
  }
  return { settings, notes: [...notes], problems };
}

function unknown(key: string, known: readonly string[]): string {
  const hint = suggestion(key, known);
  return `it is not known here${hint.startsWith("; did") ? hint : ""}`;
}

function linesOf({ settings, problems }: Pick<Reading, "settings" | "problems">): string {
  return [
    ...Object.entries(settings).map(([key, value]) => `  ${flagName(key).slice(2)}: ${yamlOf(value)}`),
    ...problems.map(([key, text]) => `  # ${key}: ${text}`),
  ].join("\n");
}

function yamlOf(value: unknown): string {
  return typeof value === "string" && /^[\w./-]+$/.test(value) ? value : JSON.stringify(value);
}

/** `name = value` at the start of a line of Python, with a value that is a plain literal. */
const ASSIGNMENT = /^([A-Za-z_]\w*)\s*=\s*(.+?)\s*(?:#.*)?$/gm;

/** A configuration in Python, as XTuner's and Unsloth's are: what of it can be said here is in the error. */
export function pythonConfig(file: string, text: string): UserError {
  const written: Record<string, unknown> = {};
  for (const [, name, value] of text.matchAll(ASSIGNMENT)) {
    const literal = literalOf(value!);
    if (literal !== undefined && Object.hasOwn(XTUNER, name!)) written[name!] = literal;
  }
  const reading = read(XTUNER, written, new Set(), dirname(file));
  const lines = linesOf(reading);
  return new UserError(
    `${file} is a program in Python, as XTuner's configurations are, and cannot be read; a configuration here is YAML` +
      (lines === "" ? ", such as recipes copy writes" : `. What it sets, for a file of your own:\n${lines}`),
  );
}

/** A literal of Python as a value; undefined for everything else. */
function literalOf(text: string): unknown {
  const quoted = /^(?:'([^'\\]*)'|"([^"\\]*)")$/.exec(text);
  if (quoted) return quoted[1] ?? quoted[2];
  if (text === "True" || text === "False") return text === "True";
  if (text === "None") return null;
  const list = /^[([]([^()[\]]*)[)\]]$/.exec(text);
  if (list) return list[1]!.split(",").flatMap((part) => (part.trim() === "" ? [] : [literalOf(part.trim())]));
  return /^[-+]?[\d.]+(?:e[-+]?\d+)?$/i.test(text) && !Number.isNaN(Number(text)) ? Number(text) : undefined;
}

/** Returns what is said behind an unknown flag or key that another system has. */
export function explain({ flag, why }: Found, what: "flag" | "key", write: (flag: string) => string): string {
  if (flag === null) return `; there is no such ${what}: ${why}`;
  return `; it is ${write(flag)} here${why === null ? "" : `: ${why}`}`;
}
