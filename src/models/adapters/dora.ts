import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
import { RowNorm } from "../../ops/row-norm.ts";
import { ScaleColumns } from "../../ops/scale-columns.ts";
import { defineAdapter, type LinearLayer, type Site } from "./kind.ts";
import {
  addUpdate,
  initialiseLowRank,
  LOW_RANK_NAMES,
  lowRank,
  lowRankParts,
  lowRankShape,
  mergeLowRank,
  product,
} from "./low-rank.ts";
import {
  checkPatterns,
  describeLowRank,
  lowRankAsked,
  lowRankFlags,
  lowRankPeft,
  lowRankSettings,
  lowRankSetup,
  type LowRankSetup,
} from "./low-rank-settings.ts";

/** One length for each output of a layer; of an embedding PEFT has one for each feature. */
const MAGNITUDE = { suffix: "lora_magnitude_vector", vector: true } as const;
/** The norms, where adapters stay as they are. */
const NORM = "lora_norm";

const magnitudes = ({ layer, rows, columns }: Site): [number] => [layer === "embedding" ? columns : rows];

/** Norms of the rows of W + scale B A. */
function rowNorms(
  { builder, module, site, weight, parameter }: Pick<LinearLayer, "builder" | "module" | "site" | "weight" | "parameter">,
  setup: LowRankSetup,
): string {
  const [a, b] = lowRankParts(site, setup).map(parameter) as [string, string];
  return builder.value(RowNorm, [weight, a, b], { alpha: setup.scale }, `${module}.norm`);
}

/**
 * Weight-decomposed low-rank adaptation (DoRA, Liu et al. 2024, https://arxiv.org/abs/2402.09353): the rows of W + scale B A keep their
 * directions and get lengths m of their own,
 *
 *     y = (m / n) (x W^T + scale (x A^T) B^T) + b,    n = |W + scale B A| by rows,
 *
 * where n counts as a constant in the gradient (section 4.3). With dropout, as in PEFT, the dropped input d goes through m / n alone:
 * y = x W^T + b - d W^T + (m / n) (d W^T + scale (d A^T) B^T).
 */
export const dora = defineAdapter({
  name: "dora",
  title: "DoRA",
  summary: "low-rank adapters with a length for each output (DoRA)",
  flags: lowRankFlags,
  settings: lowRankSettings,
  check: checkPatterns,
  asked: lowRankAsked,
  setup: lowRankSetup,
  describe: describeLowRank,
  peft: lowRankPeft({ flags: ["use_dora"] }),
  sites: ["linear"],
  names: {
    linear: [...LOW_RANK_NAMES.linear, MAGNITUDE],
    head: [...LOW_RANK_NAMES.head, MAGNITUDE],
    embedding: [...LOW_RANK_NAMES.embedding, MAGNITUDE],
    experts: [],
  },
  shapeOf: lowRankShape,
  parts: (site, setup) => [...lowRankParts(site, setup), { ...MAGNITUDE, shape: magnitudes(site) }],
  linear(layer, setup) {
    const { builder, module, x, bias, parameter, site } = layer;
    const dropped = layer.dropped();
    const update = lowRank(layer, setup);
    const adapted = addUpdate(layer, product({ ...layer, x: dropped, bias: null }), update);
    const magnitude = parameter({ ...MAGNITUDE, shape: magnitudes(site) });
    const norm = layer.resting ? parameter({ suffix: NORM, shape: magnitudes(site) }) : rowNorms(layer, setup);
    const operands = [adapted, magnitude, norm];
    if (dropped === x) return builder.value(ScaleColumns, bias === null ? operands : [...operands, bias], {}, `${module}.scaled`);
    const lost = builder.value(Add, [x, builder.value(Affine, [dropped], { alpha: -1, beta: 0 })], {}, `${module}.lost`);
    const rest = product({ ...layer, x: lost }, `${module}.rest`);
    return builder.value(ScaleColumns, [...operands, rest], {}, `${module}.scaled`);
  },
  initialise: (part, random) => (part.suffix === MAGNITUDE.suffix ? null : initialiseLowRank(part, random)),
  computed: { begins: MAGNITUDE.suffix, constant: NORM, shape: magnitudes, value: rowNorms },
  merge(weight, site, setup, read) {
    mergeLowRank(weight, site, setup, read);
    const { layer, rows, columns } = site;
    const magnitude = read(MAGNITUDE.suffix);
    const at = (row: number, column: number) => (layer === "embedding" ? column : row);
    const squares = new Float64Array(magnitude.length);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) squares[at(row, column)]! += weight[row * columns + column]! ** 2;
    const factors = magnitude.map((length, i) => length / Math.sqrt(squares[i]!));
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) weight[row * columns + column]! *= factors[at(row, column)]!;
  },
});
