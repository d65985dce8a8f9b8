import type { Metric, Sums, Values } from "./objective.ts";

/** Metrics of classification, of sums over texts. Names of sums are those of ids: `hit/2` or `as/0/2`. */

const ACCURACY: Metric = { name: "class_accuracy", label: "accuracy", better: "higher", unit: "%", digits: 1 };
const MACRO_F1: Metric = { name: "f1_macro", label: "macro F1", better: "higher", digits: 3 };
const BRIER: Metric = { name: "brier", label: null, better: "lower", digits: 4 };

export const CLASS_METRICS: readonly Metric[] = [
  ACCURACY,
  MACRO_F1,
  BRIER,
  { name: "ece", label: null, better: "lower", digits: 4 },
];

export const SEVERAL_METRICS: readonly Metric[] = [
  ACCURACY,
  MACRO_F1,
  { name: "f1_micro", label: "micro F1", better: "higher", digits: 3 },
  BRIER,
];

export const NUMBER_METRICS: readonly Metric[] = [
  { name: "mse", label: "MSE", better: "lower", digits: 4 },
  { name: "pearson", label: "Pearson", better: "higher", digits: 3 },
  { name: "spearman", label: "Spearman", better: "higher", digits: 3 },
];

/** Bins of confidence for the calibration error. */
const BINS = 15;

type Numbers = Record<string, number>;

const adder = (sums: Numbers) => (name: string, value: number) => void (sums[name] = (sums[name] ?? 0) + value);

export function indexOfMost(values: ArrayLike<number>): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** Sums over texts of one class each. */
export function classSums() {
  const sums: Numbers = { texts: 0, loss: 0, weight: 0, correct: 0, brier: 0 };
  const add = adder(sums);
  return {
    sums,
    add(loss: number, weight: number, probabilities: Float64Array, y: number): void {
      const guess = indexOfMost(probabilities);
      const confidence = probabilities[guess]!;
      add("texts", 1);
      add("loss", loss);
      add("weight", weight);
      add("correct", Number(guess === y));
      add(
        "brier",
        probabilities.reduce((sum, p, c) => sum + (p - Number(c === y)) ** 2, 0),
      );
      add(`as/${y}/${guess}`, 1);
      // Bins are open below and closed above, as those of Guo et al. 2017 (https://arxiv.org/abs/1706.04599).
      const bin = Math.min(BINS - 1, Math.max(0, Math.ceil(confidence * BINS) - 1));
      add(`over/${bin}`, confidence - Number(guess === y));
    },
  };
}

export function classValues(all: Sums, labels: readonly string[]): Values {
  const sums = all as Numbers;
  const counts = labels.map((_, y) => labels.map((_, guess) => sums[`as/${y}/${guess}`] ?? 0));
  const classes = labels.map((_, c) => ({
    hit: counts[c]![c]!,
    given: counts[c]!.reduce((sum, each) => sum + each, 0),
    guessed: counts.reduce((sum, row) => sum + row[c]!, 0),
  }));
  const texts = sums["texts"]!;
  let ece = 0;
  for (let bin = 0; bin < BINS; bin++) ece += Math.abs(sums[`over/${bin}`] ?? 0) / texts;
  return {
    loss: sums["loss"]! / sums["weight"]!,
    metrics: { class_accuracy: sums["correct"]! / texts, f1_macro: macro(classes), brier: sums["brier"]! / texts, ece },
    details: { confusion: { labels, counts }, classes: reports(labels, classes) },
  };
}

/** Sums over texts of any number of classes: a class is guessed from a probability of one half on. */
export function severalSums() {
  const sums: Numbers = { texts: 0, loss: 0, correct: 0, brier: 0 };
  const add = adder(sums);
  return {
    sums,
    add(loss: number, probabilities: Float64Array, y: ArrayLike<number>): void {
      add("texts", 1);
      add("loss", loss);
      let isExact = true;
      probabilities.forEach((p, c) => {
        const guess = Number(p >= 0.5);
        add("brier", (p - y[c]!) ** 2 / probabilities.length);
        if (guess !== y[c]) isExact = false;
        if (guess === 1 && y[c] === 1) add(`hit/${c}`, 1);
        if (y[c] === 1) add(`given/${c}`, 1);
        if (guess === 1) add(`guessed/${c}`, 1);
      });
      add("correct", Number(isExact));
    },
  };
}

export function severalValues(all: Sums, labels: readonly string[]): Values {
  const sums = all as Numbers;
  const classes = labels.map((_, c) => ({
    hit: sums[`hit/${c}`] ?? 0,
    given: sums[`given/${c}`] ?? 0,
    guessed: sums[`guessed/${c}`] ?? 0,
  }));
  const total = (key: keyof ClassCounts) => classes.reduce((sum, each) => sum + each[key], 0);
  const texts = sums["texts"]!;
  return {
    loss: sums["loss"]! / texts,
    metrics: {
      class_accuracy: sums["correct"]! / texts,
      f1_macro: macro(classes),
      f1_micro: f1({ hit: total("hit"), given: total("given"), guessed: total("guessed") }),
      brier: sums["brier"]! / texts,
    },
    details: { classes: reports(labels, classes) },
  };
}

/** Texts of a class that were taken for it, texts of it, and texts that were taken for it. */
interface ClassCounts {
  readonly hit: number;
  readonly given: number;
  readonly guessed: number;
}

/** The harmonic mean of precision and recall; 0 where nothing is hit. */
const f1 = ({ hit, given, guessed }: ClassCounts): number => (hit === 0 ? 0 : (2 * hit) / (given + guessed));

/** The mean F1 of the classes that texts have or were taken for, as in scikit-learn. */
function macro(classes: readonly ClassCounts[]): number {
  const seen = classes.filter(({ given, guessed }) => given + guessed > 0);
  return seen.reduce((sum, each) => sum + f1(each), 0) / Math.max(1, seen.length);
}

function reports(labels: readonly string[], classes: readonly ClassCounts[]) {
  return labels.map((label, c) => {
    const { hit, given, guessed } = classes[c]!;
    const share = (of: number) => (of === 0 ? 0 : hit / of);
    return { label, texts: given, precision: share(guessed), recall: share(given), f1: f1(classes[c]!) };
  });
}

/** Of the predicted numbers and the given ones, which sums have as lists. */
export function numberValues(sums: Sums): Values {
  const { texts, loss, predicted, given } = sums as unknown as Numbers & Record<"predicted" | "given", readonly number[]>;
  const mse = loss! / texts!;
  return {
    loss: mse,
    metrics: { mse, pearson: pearson(predicted, given), spearman: pearson(ranks(predicted), ranks(given)) },
  };
}

/** The correlation of two lists; 0 where one of them has a single value, of which nothing follows. */
function pearson(a: readonly number[], b: readonly number[]): number {
  const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;
  const [ma, mb] = [mean(a), mean(b)];
  let [ab, aa, bb] = [0, 0, 0];
  a.forEach((value, i) => {
    ab += (value - ma) * (b[i]! - mb);
    aa += (value - ma) ** 2;
    bb += (b[i]! - mb) ** 2;
  });
  return aa === 0 || bb === 0 ? 0 : ab / Math.sqrt(aa * bb);
}

/** Places in order, from 1; equal values share the mean of theirs. */
function ranks(values: readonly number[]): number[] {
  const order = values.map((_, i) => i).sort((i, j) => values[i]! - values[j]!);
  const places = Array.from(values, () => 0);
  for (let from = 0; from < order.length;) {
    let to = from + 1;
    while (to < order.length && values[order[to]!] === values[order[from]!]) to++;
    for (let at = from; at < to; at++) places[order[at]!] = (from + to + 1) / 2;
    from = to;
  }
  return places;
}
