import { createBreath } from "../../../base/process/event-loop.ts";
import { type Layout, valuesOf } from "./layout.ts";
import { type Contribution, meanOf, type OuterSettings, outerStep } from "./mean.ts";
import { pairsOf, sumProducts, type Term, type Truncation } from "./products.ts";

/** The common model between two rounds. */
export interface Common {
  /** The parameters as they were computed. */
  readonly parameters: Float32Array<ArrayBuffer>;
  /** The parameters as nodes have them, who were sent codes of changes: the next codes bring what these left out. */
  readonly model: Float32Array<ArrayBuffer>;
  /** Momentum between rounds; null: there is none. */
  readonly velocity: Float32Array<ArrayBuffer> | null;
}

/** Parameters and momentum after a round. */
export interface Aggregated extends Omit<Common, "model"> {
  /** The share of the mean product that its best approximation of the adapters' rank lacks, of Frobenius norms; null: nothing was approximated. */
  readonly lost: number | null;
}

/** The common model moved by the mean of the nodes' updates. */
export function average(common: Common, contributions: readonly Contribution[], outer: OuterSettings): Aggregated {
  const parameters = common.parameters.slice();
  const velocity = common.velocity?.slice() ?? null;
  outerStep(parameters, velocity, meanOf(contributions), outer);
  return { parameters, velocity, lost: null };
}

/**
 * The mean of the nodes' products, and of all other parameters their mean. What nodes began with differs from the parameters by what codes left out;
 * that difference of products is added to the sum, so that nothing of it is lost.
 */
export async function averageProducts(
  layout: Layout,
  { parameters, model }: Common,
  contributions: readonly Contribution[],
): Promise<Aggregated> {
  const total = contributions.reduce((sum, { weight }) => sum + weight, 0);
  const terms: Term[] = [
    ...contributions.map(({ weight, update }) => ({
      weight: weight / total,
      parameters: model.map((value, i) => value + update[i]!),
    })),
    { weight: 1, parameters },
    { weight: -1, parameters: model },
  ];
  const isSame = parameters.every((value, i) => value === model[i]);
  const next = parameters.slice();
  const { pairs, others } = pairsOf(layout);
  const breathe = createBreath();
  const all: Truncation[] = [];
  for (const pair of pairs) {
    all.push(sumProducts(pair, isSame ? terms.slice(0, -2) : terms, model, next));
    await breathe();
  }
  const mean = meanOf(contributions);
  for (const part of others) {
    const values = valuesOf(next, part);
    for (let i = 0; i < values.length; i++) values[i]! += mean[part.begin + i]!;
  }
  const sum = (key: keyof Truncation) => all.reduce((squares, one) => squares + one[key], 0);
  return { parameters: next, velocity: null, lost: sum("total") > 0 ? Math.sqrt(sum("lost") / sum("total")) : 0 };
}
