import { existsSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { readJsonObject } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";

/** What a text is judged as: one class of several, any number of classes, or a number. */
export const LABEL_KINDS = ["single", "several", "number"] as const;
export type LabelKind = (typeof LABEL_KINDS)[number];

/** The same in `config.json`. */
const PROBLEM_TYPES: Readonly<Record<LabelKind, string>> = {
  single: "single_label_classification",
  several: "multi_label_classification",
  number: "regression",
};

/** What makes a relevance of the score that a text has for a query: sigmoid puts it between 0 and 1, identity leaves it. */
export type Activation = "sigmoid" | "identity";

/** The same in `config.json`, as sentence-transformers has it. */
const ACTIVATIONS: Readonly<Record<Activation, string>> = {
  sigmoid: "torch.nn.modules.activation.Sigmoid",
  identity: "torch.nn.modules.linear.Identity",
};

/** Describes what the numbers mean that a head for texts gives. */
export interface Classifier {
  readonly kind: LabelKind;
  /** Names of the classes in the order of their ids; empty for numbers. */
  readonly labels: readonly string[];
  /** See `TextHead.padId`. */
  readonly padId: number | null;
  /** The divisor of logits, by which probabilities are those of held-out texts; null: it is not known. */
  readonly temperature: number | null;
  /** The activation of a reranker's scores; absent: the files do not say it. */
  readonly activation?: Activation;
  /** The tokens that stand for the classes, whose logits of the model's own head are the numbers; absent: a head for texts gives them. */
  readonly options?: readonly number[];
}

/** The file that says of a head what a model's `config.json` says, which an adapter has none of; and the temperature. */
export const CLASSIFIER_FILE = "classifier.json";

const schema = z.object({
  problem_type: z.string().nullish(),
  id2label: z.record(z.string(), z.string()).nullish(),
  pad_token_id: z.int().nullish(),
  temperature: z.number().positive().nullish(),
  option_token_ids: z.array(z.int().min(0)).min(2).nullish(),
  sentence_transformers: z.object({ activation_fn: z.string().nullish() }).nullish(),
  // As versions of sentence-transformers before 4.0 have it.
  sbert_ce_default_activation_function: z.string().nullish(),
});

/** The text of `classifier.json`. */
export function classifierText(classifier: Classifier): string {
  const { temperature, options } = classifier;
  const more = { ...(options && { option_token_ids: options }), ...(temperature !== null && { temperature }) };
  return `${JSON.stringify({ ...classifierKeys(classifier), ...more }, null, 2)}\n`;
}

/** The keys of `config.json` that describe a classifier. */
export function classifierKeys({ kind, labels, padId, activation }: Classifier): Readonly<Record<string, unknown>> {
  const names = kind === "number" ? ["LABEL_0"] : labels;
  return {
    problem_type: PROBLEM_TYPES[kind],
    id2label: Object.fromEntries(names.map((name, id) => [String(id), name])),
    label2id: Object.fromEntries(names.map((name, id) => [name, id])),
    pad_token_id: padId,
    ...(activation && { sentence_transformers: { activation_fn: ACTIVATIONS[activation] } }),
  };
}

/**
 * Reads what the head of an adapter, or of a model's folder, gives. Where the files are silent, it is what Transformers takes it for.
 * @param outputs numbers that the head gives a text
 * @throws {UserError} names that are no names of so many classes
 */
export function readClassifier(folder: string, adapter: string | null, outputs: number): Classifier {
  const beside = join(adapter ?? folder, CLASSIFIER_FILE);
  const path = existsSync(beside) ? beside : join(folder, "config.json");
  const {
    problem_type: problem,
    id2label,
    pad_token_id: padId,
    temperature,
    ...more
  } = parseWith(schema, readJsonObject(path), path);
  const kind = kindOf(problem ?? null, outputs, path);
  const activation = kind === "number" ? activationOf(more, path) : null;
  const named = Object.entries(id2label ?? {}).sort(([a], [b]) => Number(a) - Number(b));
  // The base model of an adapter may be silent of classes, or speak of others.
  const isSilent = named.length === 0 || (adapter !== null && path !== beside && named.length !== outputs);
  const names = isSilent ? Array.from({ length: outputs }, (_, id) => `LABEL_${id}`) : named.map(([, name]) => name);
  if (kind !== "number" && names.length !== outputs)
    throw new UserError(`${path}: id2label names ${names.length} classes, the weights are for ${outputs}`);
  if (kind === "number" && outputs !== 1)
    throw new UserError(`${path}: a head that gives ${outputs} numbers as values is not supported; expected 1`);
  return {
    kind,
    labels: kind === "number" ? [] : names,
    padId: padId ?? null,
    temperature: temperature ?? null,
    ...(activation && { activation }),
  };
}

/**
 * Reads what a folder says of classes that the model's own head picks among by their tokens; null: it says nothing of the kind.
 * @param vocabSize tokens that the model knows
 * @throws {UserError} ids that are no such tokens
 */
export function readOptions(folder: string, vocabSize: number): (Classifier & Required<Pick<Classifier, "options">>) | null {
  const path = join(folder, CLASSIFIER_FILE);
  if (!existsSync(path)) return null;
  const { option_token_ids: options } = parseWith(schema, readJsonObject(path), path);
  if (!options) return null;
  const bad = options.find((id, i) => id >= vocabSize || options.indexOf(id) !== i);
  if (bad !== undefined)
    throw new UserError(
      `${path}: option_token_ids has ${bad}, which is ${bad < vocabSize ? "there twice" : `no token of a vocabulary of ${vocabSize}`}; expected the id of another token for each class`,
    );
  const read = readClassifier(folder, null, options.length);
  if (read.kind !== "single") throw new UserError(`${path}: option_token_ids is for ${PROBLEM_TYPES.single}`);
  return { ...read, padId: null, options };
}

type Said = Pick<z.output<typeof schema>, "sentence_transformers" | "sbert_ce_default_activation_function">;

/** @throws {UserError} an activation of another kind */
function activationOf(
  { sentence_transformers: own, sbert_ce_default_activation_function: old }: Said,
  path: string,
): Activation | null {
  const said = own?.activation_fn ?? old ?? null;
  if (said === null) return null;
  const last = said.split(".").at(-1)!.toLowerCase();
  if (last === "sigmoid" || last === "identity") return last;
  throw new UserError(
    `${path}: activation_fn ${JSON.stringify(said)} is not supported; expected ${Object.values(ACTIVATIONS).join(" or ")}`,
  );
}

function kindOf(problem: string | null, outputs: number, path: string): LabelKind {
  if (problem === null) return outputs === 1 ? "number" : "single";
  const kind = LABEL_KINDS.find((each) => PROBLEM_TYPES[each] === problem);
  if (kind) return kind;
  throw new UserError(
    `${path}: problem_type ${JSON.stringify(problem)} is not supported; expected ${Object.values(PROBLEM_TYPES).join(", ")}`,
  );
}
