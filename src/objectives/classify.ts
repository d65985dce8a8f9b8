import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { flagName } from "../base/names.ts";
import { show } from "../base/json.ts";
import type { Label } from "../data/examples/example.ts";
import { isNumber } from "../data/examples/judged/labels.ts";
import type { MicroBatch } from "../data/samples/batch.ts";
import { LABEL_KINDS, type LabelKind } from "../hf/config/classifier.ts";
import {
  CLASS_METRICS,
  classSums,
  classValues,
  NUMBER_METRICS,
  numberValues,
  SEVERAL_METRICS,
  severalSums,
  severalValues,
} from "./class-metrics.ts";
import { defineObjective, type JudgedTexts, type Judgement, type LogitsHead, type Sums, type Targets } from "./objective.ts";
import { logSigmoid, logSoftmax } from "./logistic.ts";

/**
 * Classification of whole texts. With the logits z of a text, p = softmax(z), the loss is
 *
 *     single:   sum_c a_c -log p_c,  a = (1 - e) w_y [c = y] + e w_c / K       e: label smoothing over K classes, w: their weights
 *     several:  mean_c -(y_c log sigmoid(z_c) + (1 - y_c) log sigmoid(-z_c))
 *     number:   (z - y)^2
 *
 * as PyTorch's CrossEntropyLoss, BCEWithLogitsLoss and MSELoss have it: a mean over texts, with weights over the sum of the weights w_y.
 */
export const classify = defineObjective({
  name: "classify",
  summary: "the class of a text, several classes, or a number",
  accepts: ["labelled"],
  texts: 1,
  metrics: [...CLASS_METRICS, ...SEVERAL_METRICS.filter((metric) => !CLASS_METRICS.includes(metric)), ...NUMBER_METRICS],
  metricsOf: ({ labelKind }) => METRICS_OF[labelKind ?? "single"],
  flags: {
    labels: z
      .array(z.string().min(1))
      .optional()
      .describe("classify: names of the classes in the order of their ids (those that the training examples have)"),
    labelKind: z
      .enum(LABEL_KINDS)
      .optional()
      .describe("classify: one class for each text, several, or a number (what the labels of the training examples are)"),
    classWeights: z
      .array(z.string().min(1))
      .optional()
      .describe("classify: how much the classes count, spam=2,ham=0.5, or balanced: each class as much as any other (1)"),
    optionTokens: z
      .boolean()
      .optional()
      .describe(
        "classify: a model that generates text picks the class as its answer, by the first tokens of the classes' names and its own head, without a new one",
      ),
    labelSmoothing: z.number().min(0).lt(1).default(0).describe("classify: share of a text's label that all classes have alike"),
  },
  create: (settings): LogitsHead => {
    const { labels = [], labelKind: kind = "single", classWeights, labelSmoothing: smoothing } = settings;
    const of = (label: Label, where: string) => targetOf(label, where, kind, labels);
    const targets: Targets = { key: JSON.stringify([kind, labels]), of };
    const common = { kind: "logits", outputs: kind === "number" ? 1 : labels.length, targets } as const;
    const shareOfTexts = ({ examples }: MicroBatch) => examples;
    switch (kind) {
      case "single": {
        // Before the labels are found nobody asks for weights.
        const weights = weightsOf(labels.length === 0 ? [] : (classWeights ?? []), labels);
        return {
          ...common,
          share: (batch) => batch.targets!.reduce((sum, y) => sum + weights[y]!, 0),
          judge: (batch, logits) => judgeSingle(batch, logits, weights, smoothing),
          values: (sums) => classValues(sums, labels),
        };
      }
      case "several":
        return { ...common, share: shareOfTexts, judge: judgeSeveral, values: (sums) => severalValues(sums, labels) };
      case "number":
        return { ...common, share: shareOfTexts, judge: judgeNumber, values: numberValues };
    }
  },
});

const METRICS_OF = { single: CLASS_METRICS, several: SEVERAL_METRICS, number: NUMBER_METRICS } as const;

/** The word for weights by which each class counts as much as any other. */
export const BALANCED = "balanced";

/**
 * Reads `spam=2,ham=0.5`; classes that are not named have 1.
 * @throws {UserError} names of no class, numbers that are no weights
 */
export function weightsOf(given: readonly string[], labels: readonly string[]): Float64Array {
  const weights = new Float64Array(labels.length).fill(1);
  for (const entry of given) {
    const at = entry.lastIndexOf("=");
    const [name, weight] = [entry.slice(0, at).trim(), Number(entry.slice(at + 1))];
    if (at < 0 || entry.slice(at + 1).trim() === "" || !(weight > 0 && weight < Infinity)) {
      throw new UserError(
        `--class-weights ${entry}: expected NAME=NUMBER with a number above 0${entry === BALANCED ? `; ${BALANCED} is for training` : ""}`,
      );
    }
    const id = labels.indexOf(name);
    if (id < 0) throw new UserError(`--class-weights ${entry}: ${show(name)} is none of the classes ${labels.join(", ")}`);
    weights[id] = weight;
  }
  return weights;
}

/** @throws {UserError} settings that mean nothing of such labels */
export function checkLabelSettings(
  settings: {
    readonly labels?: readonly string[] | undefined;
    readonly classWeights?: readonly string[] | undefined;
    readonly labelSmoothing: number;
    readonly optionTokens?: boolean | undefined;
  },
  kind: LabelKind,
): void {
  const isOther = {
    labels: kind === "number" && settings.labels,
    classWeights: kind !== "single" && settings.classWeights,
    labelSmoothing: kind !== "single" && settings.labelSmoothing,
    optionTokens: kind !== "single" && settings.optionTokens,
  };
  const [key] = Object.entries(isOther).find(([, value]) => value) ?? [];
  if (key === undefined) return;
  const what = { single: "one class for each text", several: "lists of classes", number: "numbers with fractions" }[kind];
  throw new UserError(
    `${flagName(key)} is for ${key === "labels" ? "classes" : "labels of one class for each text"}; the labels are ${what}`,
  );
}

/** A label as numbers: the class's id, ones and zeros for several, the number. @throws {UserError} a label that is none of the classes, or of another kind */
function targetOf(label: Label, where: string, kind: LabelKind, labels: readonly string[]): Float32Array {
  const idOf = (name: string | number): number => {
    const id = labels.indexOf(String(name));
    if (id >= 0) return id;
    const known = labels.length > 12 ? `${labels.slice(0, 12).join(", ")} and ${labels.length - 12} more` : labels.join(", ");
    throw new UserError(
      `${where}: label ${show(name)} is none of the classes ${known}, which the training examples have, or --labels names`,
    );
  };
  if (kind === "several") {
    if (!Array.isArray(label)) throw new UserError(`${where}: "label" is ${show(label)}; expected a list of classes`);
    const target = new Float32Array(labels.length);
    for (const name of label as readonly (string | number)[]) target[idOf(name)] = 1;
    return target;
  }
  if (Array.isArray(label))
    throw new UserError(`${where}: "label" is a list; expected ${kind === "number" ? "a number" : "one class"}`);
  if (kind === "single") return Float32Array.of(idOf(label as string | number));
  if (!isNumber(label)) throw new UserError(`${where}: "label" is ${show(label)}; expected a number`);
  return Float32Array.of(Number(label));
}

function judgeSingle(
  { targets, examples }: JudgedTexts,
  logits: Float32Array,
  weights: Float64Array,
  smoothing: number,
): Judgement {
  const count = weights.length;
  const derivatives = new Float64Array(logits.length);
  const sums = classSums();
  for (let i = 0; i < examples; i++) {
    const logp = logSoftmax(logits.subarray(i * count, (i + 1) * count));
    const y = targets![i]!;
    const a = weights.map((weight, c) => (c === y ? (1 - smoothing) * weight : 0) + (smoothing / count) * weight);
    const total = a.reduce((sum, each) => sum + each, 0);
    let loss = 0;
    for (let c = 0; c < count; c++) {
      loss -= a[c]! * logp[c]!;
      // d -log p_k = (p - [c = k]) dz_c.
      derivatives[i * count + c] = total * Math.exp(logp[c]!) - a[c]!;
    }
    sums.add(loss, weights[y]!, logp.map(Math.exp), y);
  }
  return { sums: sums.sums, weights: derivatives };
}

function judgeSeveral({ targets, examples }: JudgedTexts, logits: Float32Array): Judgement {
  const count = targets!.length / examples;
  const derivatives = new Float64Array(logits.length);
  const sums = severalSums();
  for (let i = 0; i < examples; i++) {
    const probabilities = new Float64Array(count);
    let loss = 0;
    for (let c = 0; c < count; c++) {
      const [z, y] = [logits[i * count + c]!, targets![i * count + c]!];
      loss -= (y * logSigmoid(z) + (1 - y) * logSigmoid(-z)) / count;
      probabilities[c] = Math.exp(logSigmoid(z));
      derivatives[i * count + c] = (probabilities[c]! - y) / count;
    }
    sums.add(loss, probabilities, targets!.subarray(i * count, (i + 1) * count));
  }
  return { sums: sums.sums, weights: derivatives };
}

function judgeNumber({ targets, examples }: JudgedTexts, logits: Float32Array): Judgement {
  const off = Float64Array.from(targets!, (y, i) => logits[i]! - y);
  const sums: Sums = {
    texts: examples,
    loss: off.reduce((sum, each) => sum + each * each, 0),
    predicted: [...logits],
    given: [...targets!],
  };
  return { sums, weights: off.map((each) => 2 * each) };
}
