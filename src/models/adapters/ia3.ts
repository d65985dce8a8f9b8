import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { parseWith } from "../../base/schema.ts";
import { Reshape } from "../../ops/reshape.ts";
import { ScaleColumns } from "../../ops/scale-columns.ts";
import { type AdapterPart, defineAdapter, type Site } from "./kind.ts";
import { product } from "./low-rank.ts";
import { matches } from "./patterns.ts";

export interface Ia3Settings {
  /** The modules whose inputs are scaled: ends of their names, or a regular expression of PEFT's. */
  readonly feedforward: readonly string[] | string;
}

export interface Ia3Setup {
  readonly scaled: "inputs" | "outputs";
}

/** One factor for each output of a layer, [outputs, 1], or for each input, [1, inputs]. */
const FACTORS = { suffix: "ia3_l", vector: true } as const;

const flags = {
  feedforward: z
    .array(z.string().min(1))
    .optional()
    .describe("with ia3, those of the targets whose inputs are scaled in the place of their outputs (the last layer of the MLP)"),
};

const schema = z.object({
  fan_in_fan_out: z.boolean().nullish(),
  feedforward_modules: z.union([z.string(), z.array(z.string())]),
});

/** Tells whether a name stands for a module, as PEFT compares the names of feedforward modules. */
const isOne = (module: string) => (name: string) => module.endsWith(name);

/** Tells whether each of some names stands for modules of one setup. */
function tellApart(names: readonly string[], setups: ReadonlyMap<string, Ia3Setup>): boolean {
  const ofModules = (name: string) => [...setups].filter(([module]) => isOne(module)(name)).map(([, { scaled }]) => scaled);
  return names.every((name) => new Set(ofModules(name)).size < 2);
}

const modulesOf = (setups: ReadonlyMap<string, Ia3Setup>, wanted: Ia3Setup["scaled"]): string[] =>
  [...setups].flatMap(([module, { scaled }]) => (scaled === wanted ? [module] : [])).sort();

function partOf({ rows, columns }: Site, { scaled }: Ia3Setup): AdapterPart {
  return { ...FACTORS, shape: scaled === "inputs" ? [1, columns] : [rows, 1] };
}

/**
 * Infused Adapter by Inhibiting and Amplifying Inner Activations, (IA)^3 (Liu et al. 2022, https://arxiv.org/abs/2205.05638): a factor l for
 * each output of a layer, its bias included, or for each input,
 *
 *     y = l (x W^T + b),    y = (l x) W^T + b,
 *
 * which begin at 1. The paper scales keys, values and the inputs of the last layer of the MLP.
 */
export const ia3 = defineAdapter<"ia3", typeof flags, Ia3Settings, Ia3Setup>({
  name: "ia3",
  title: "IA3",
  summary: "a factor for each output or input of a layer (IA3)",
  flags,
  targets: {
    description: "keys, values and the last layer of the MLP, or what PEFT has for the family",
    of: ({ scaled: { outputs, inputs } }) => [...outputs, ...inputs],
  },
  settings: ({ feedforward }, { scaled }) => ({ feedforward: feedforward ?? scaled.inputs }),
  check({ feedforward = [] }, adapted) {
    const unknown = feedforward.find((name) => !adapted.some((module) => isOne(module)(name)));
    if (unknown === undefined) return;
    const names = [...new Set(adapted.map((module) => module.split(".").at(-1)!))].sort();
    throw new UserError(
      `--feedforward: ${show(unknown)} is the name of no module with an adapter; there are ${names.join(", ")}`,
    );
  },
  asked(_settings, setups) {
    const modules = modulesOf(setups, "inputs");
    const names = [...new Set(modules.map((module) => module.split(".").at(-1)!))];
    return { feedforward: tellApart(names, setups) ? names : modules };
  },
  setup({ feedforward }, module, where) {
    const isFeedforward = typeof feedforward === "string" ? matches(feedforward, module, where) : feedforward.some(isOne(module));
    return { scaled: isFeedforward ? "inputs" : "outputs" };
  },
  describe: ({ scaled }) => `that it is ${scaled === "inputs" ? "a" : "no"} feedforward module`,
  peft: {
    type: "IA3",
    flags: [],
    read(raw, where, refuse) {
      const { fan_in_fan_out: isTransposed, feedforward_modules: feedforward } = parseWith(schema, raw, where);
      if (isTransposed) throw refuse("fan_in_fan_out");
      return { feedforward };
    },
    // There is no layers_to_transform: where not all blocks are adapted, modules have their whole names.
    write(_settings, { targets, layers, setups }) {
      const isByName = layers === null && tellApart(targets, setups);
      const names = (isByName ? [...targets] : [...setups.keys()]).sort();
      const inputs = modulesOf(setups, "inputs");
      return {
        fan_in_fan_out: false,
        feedforward_modules: names.filter((name) => inputs.some((module) => isOne(module)(name))),
        init_ia3_weights: true,
        target_modules: names,
      };
    },
  },
  sites: ["linear"],
  names: { linear: [FACTORS], head: [FACTORS], embedding: [], experts: [] },
  shapeOf(_layer, shapeOf, { scaled }) {
    const [rows = 0, columns = 0] = shapeOf(FACTORS.suffix);
    return scaled === "inputs" ? [null, columns] : [rows, null];
  },
  parts: (site, setup) => [partOf(site, setup)],
  linear(layer, setup) {
    const { builder, module, site, x, parameter } = layer;
    const shape = [setup.scaled === "inputs" ? site.columns : site.rows];
    const factors = builder.value(Reshape, [parameter(partOf(site, setup))], { shape }, `${module}.factors`);
    const scaled = (value: string) => builder.value(ScaleColumns, [value, factors], {}, `${module}.scaled`);
    return setup.scaled === "inputs" ? product({ ...layer, x: scaled(x) }) : scaled(product(layer));
  },
  initialise: ({ shape: [rows = 0, columns = 0] }) => new Float32Array(rows * columns).fill(1),
  merge(weight, { rows, columns }, { scaled }, read) {
    const factors = read(FACTORS.suffix);
    for (let row = 0, i = 0; row < rows; row++)
      for (let column = 0; column < columns; column++, i++) weight[i]! *= factors[scaled === "inputs" ? column : row]!;
  },
  mergeBias(bias, _site, { scaled }, read) {
    if (scaled === "inputs") return;
    const factors = read(FACTORS.suffix);
    for (let i = 0; i < bias.length; i++) bias[i]! *= factors[i]!;
  },
});
