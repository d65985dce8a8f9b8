import { z } from "zod";
import { UserError } from "../base/errors.ts";
import { flagName } from "../base/names.ts";
import { type ContrastExample, type Example, KIND_KEYS, type RankedExample } from "../data/examples/example.ts";
import { firstTold } from "../data/examples/told.ts";
import { unpairedOf } from "../data/examples/judged/preferences.ts";
import { rankedOf } from "../data/examples/judged/rankings.ts";
import type { Classifier } from "../hf/config/classifier.ts";
import type { Pooling } from "../models/config.ts";
import type { SampleMaker } from "../data/samples/sample-maker.ts";
import { type Head, LOSS, type Metric, type Objective, type ObjectiveDefinition } from "./objective.ts";
import { classify } from "./classify.ts";
import { distil } from "./distil.ts";
import { dpo } from "./preferences/dpo.ts";
import { embed } from "./embed/embed.ts";
import { kto } from "./preferences/kto.ts";
import { mlm } from "./mlm.ts";
import { nextToken } from "./next-token.ts";
import { rerank } from "./rerank.ts";
import { orpo } from "./preferences/orpo.ts";
import { reward } from "./preferences/reward.ts";
import { simpo } from "./preferences/simpo.ts";

/** Every objective: a file in this folder each. */
const TABLE = [nextToken, dpo, kto, orpo, simpo, classify, reward, embed, rerank, mlm, distil] as const;

export type ObjectiveName = (typeof TABLE)[number]["name"];

export const OBJECTIVE_NAMES = TABLE.map(({ name }) => name) as [ObjectiveName, ...ObjectiveName[]];

/** One line for each, for help texts. */
export const OBJECTIVE_SUMMARY = TABLE.map(({ name, summary }) => `${name}: ${summary}`).join("; ");

/** The objective of a run that does not name one. */
export const DEFAULT_OBJECTIVE: ObjectiveName = nextToken.name;

type FlagsOf<T extends readonly unknown[]> = T extends readonly [{ readonly flags: infer F }, ...infer Rest]
  ? F & FlagsOf<Rest>
  : unknown;

/** The flags of all objectives, by configuration key. */
export const OBJECTIVE_FLAGS = Object.assign({}, ...TABLE.map(({ flags }) => flags)) as FlagsOf<typeof TABLE>;

export const OBJECTIVE_KEYS = Object.keys(OBJECTIVE_FLAGS) as readonly (keyof typeof OBJECTIVE_FLAGS)[];

/** Describes what chooses an objective: its name, and the flags of all. */
export type ObjectiveSettings = { readonly objective: ObjectiveName } & z.output<z.ZodObject<typeof OBJECTIVE_FLAGS>>;

const definitionOf = (name: ObjectiveName): ObjectiveDefinition<ObjectiveName, any> => TABLE.find((each) => each.name === name)!;

export function objectiveOf(settings: ObjectiveSettings): Objective {
  const { create, acceptsOf, metricsOf, textsOf, masked, mismatched, ...definition } = definitionOf(settings.objective);
  return {
    ...definition,
    ...(acceptsOf && { accepts: acceptsOf(settings) }),
    ...(metricsOf && { metrics: metricsOf(settings) }),
    ...(textsOf && { texts: textsOf(settings) }),
    ...(masked && { masked: masked(settings) }),
    ...(mismatched && { mismatched: mismatched(settings) }),
    head: create(settings),
  };
}

/** The head of a model that judges texts, whatever it was trained for. */
export function classifierHead({ kind, labels }: Classifier): Head {
  return classify.create({ labels: [...labels], labelKind: kind, labelSmoothing: 0 });
}

/** Settings that checkpoints of old know nothing of, and that are named where they are given. */
const LATER_KEYS: readonly string[] = ["optionTokens"];

/** Returns what a run's numbers depend on, a text for each; none for the default, which runs of old have. */
export function objectiveFingerprint(settings: ObjectiveSettings): string[] {
  if (settings.objective === DEFAULT_OBJECTIVE) return [];
  const { flags } = definitionOf(settings.objective);
  const values = settings as Readonly<Record<string, unknown>>;
  const told = Object.keys(flags).filter((key) => values[key] !== undefined || !LATER_KEYS.includes(key));
  return [`objective ${settings.objective}`, ...told.map((key) => `${key} ${String(values[key])}`)];
}

/** @throws {UserError} settings of another objective that are not its defaults: they would change nothing */
export function checkObjectiveFlags(settings: ObjectiveSettings): void {
  const values = settings as Readonly<Record<string, unknown>>;
  for (const { name, flags } of TABLE) {
    if (name === settings.objective) continue;
    for (const [key, flag] of Object.entries(flags as z.ZodRawShape)) {
      if (values[key] === z.parse(flag, undefined)) continue;
      throw new UserError(`${flagName(key)} is a setting of --objective ${name}; got --objective ${settings.objective}`);
    }
  }
}

/** The head of a model that makes embeddings, whatever it was trained by. */
export function embedderHead(pooling: Pooling): Head {
  return embed.create(z.object(embed.flags).parse({ pooling }));
}

/** Samples for an objective. Its examples are refused by kind, with their places. */
export function makerFor(objective: Objective, maker: SampleMaker): SampleMaker {
  const { name, accepts, texts, head } = objective;
  const { targets, relevance, similarity } = head.kind === "logits" ? head : {};
  const top = head.kind === "token-losses" && accepts.includes("told") ? (head.slots?.count ?? 1) - 1 : null;
  const counted = accepts.includes("contrast") || accepts.includes("ranked");
  const keys = [
    ...(targets ? [targets.key] : []),
    ...(relevance ? [relevance.key] : []),
    ...(counted ? [texts] : []),
    ...(similarity ? [similarity.key] : []),
    ...(top === null ? [] : [top]),
  ];
  return {
    ...maker,
    // What the default takes has the names that it always had in the cache.
    key: name === DEFAULT_OBJECTIVE ? maker.key : JSON.stringify([maker.key, accepts, ...keys]),
    samples(given) {
      const example = exampleFor(objective, given);
      if (example.kind === "contrast") {
        checkNegatives(example, texts - 2);
        return example.positives.flatMap((positive) => maker.samples({ ...example, positives: [positive] }));
      }
      if (example.kind === "ranked") checkList(example, texts);
      const samples = maker.samples(example.kind === "told" && top !== null ? firstTold(example, top) : example);
      if (example.kind === "ranked" && relevance) {
        const numbers = relevance.of(example);
        return samples.map((sample, i) => ({ ...sample, target: numbers[i] }));
      }
      const target =
        example.kind === "labelled"
          ? targets?.of(example.label, example.where)
          : example.kind === "scored"
            ? similarity && Float32Array.of(similarity.of(example))
            : undefined;
      return target ? samples.map((sample) => ({ ...sample, target })) : samples;
    },
  };
}

/** Returns an example as the objective takes it, where a record may be read as one of several kinds. @throws {UserError} any other kind */
export function exampleFor(objective: Pick<Objective, "name" | "accepts">, given: Example): Example {
  const takes = (kind: Example["kind"]) => objective.accepts.includes(kind);
  if (given.kind === "told" && !takes("told")) return exampleFor(objective, given.answer);
  const example =
    given.kind === "labelled" && takes("unpaired")
      ? (unpairedOf(given) ?? given)
      : given.kind === "contrast" && takes("ranked")
        ? rankedOf(given)
        : given;
  if (!takes(example.kind)) throw otherKind(objective, example);
  return example;
}

/** @throws {UserError} more texts than a row has room for */
function checkList({ texts: { length }, where }: RankedExample, most: number): void {
  if (length <= most) return;
  throw new UserError(
    `${where}: the query has ${length} texts, and a row has room for ${most}, which --list-size says or the training examples have at most; give --list-size ${length}, or fewer texts`,
  );
}

/** @throws {UserError} another number of hard negatives than every example is to have */
function checkNegatives({ negatives, where }: ContrastExample, wanted: number): void {
  if (negatives.length === wanted) return;
  throw new UserError(
    `${where}: ${negatives.length} hard negatives; expected ${wanted}, as --hard-negatives says, in every example: give the example as many, or --hard-negatives ${negatives.length}`,
  );
}

/** Says for which objective an example is. */
export function otherKind({ name, accepts }: Pick<Objective, "name" | "accepts">, example: Example): UserError {
  const { otherwise } = definitionOf(name as ObjectiveName);
  const others = TABLE.filter((each) => (each.accepts as readonly string[]).includes(example.kind)).map((each) => each.name);
  return new UserError(
    `${example.where}: the objective ${name} learns from ${accepts.map((kind) => KIND_KEYS[kind]).join(" or ")}, got ${KIND_KEYS[example.kind]}; that is for ${otherwise?.[example.kind] ?? `--objective ${others.join(" or ")}`}`,
  );
}

/** All metrics by name, those of an objective in the order in which they are shown. */
export const METRICS: ReadonlyMap<string, Metric> = new Map(
  [LOSS, ...TABLE.flatMap((each): readonly Metric[] => each.metrics)].map((metric) => [metric.name, metric]),
);

/** @throws {UserError} a name that the objective has no metric of */
export function metricOf({ name, metrics }: Objective, wanted: string): Metric {
  const metric = [LOSS, ...metrics].find((each) => each.name === wanted);
  if (metric) return metric;
  const known = [LOSS, ...metrics].map((each) => each.name).join(", ");
  throw new UserError(`--best-metric ${wanted}: the objective ${name} has the metrics ${known}`);
}

/** The shown metrics as words: `perplexity 3.21`, `token accuracy 64.0 %`. `more`: digits besides the usual ones. */
export function metricTexts(values: Readonly<Record<string, number>>, more = 0): string[] {
  const shown = [...METRICS.values()].filter(({ name, label }) => label !== null && Object.hasOwn(values, name));
  return shown.map((metric) => `${metric.label} ${formatMetric(metric, values[metric.name]!, more)}`);
}

/** A value of a metric as it is shown. */
export function formatMetric({ unit, digits }: Metric, value: number, more = 0): string {
  return unit === "%" ? `${(100 * value).toFixed(digits + more)} %` : value.toFixed(digits + more);
}
