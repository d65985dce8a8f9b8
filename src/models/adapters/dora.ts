import { Add } from "../../ops/add.ts";
import { Affine } from "../../ops/affine.ts";
import { RowNorm } from "../../ops/row-norm.ts";
import { ScaleColumns } from "../../ops/scale-columns.ts";
import type { AdapterKind, AdapterSize, LinearLayer, Site } from "./kind.ts";
import { addUpdate, initialiseLowRank, lowRank, lowRankParts, lowRankSite, mergeLowRank, product } from "./low-rank.ts";

/** One length for each output of a layer; of an embedding PEFT has one for each feature. */
const MAGNITUDE = "lora_magnitude_vector";

const magnitudes = ({ layer, rows, columns }: Site): [number] => [layer === "embedding" ? columns : rows];

/** Norms of the rows of W + scale B A. */
function rowNorms(
  { builder, module, site, weight, parameter }: Pick<LinearLayer, "builder" | "module" | "site" | "weight" | "parameter">,
  { rank, scale }: AdapterSize,
): string {
  const [a, b] = lowRankParts(site, rank).map(parameter) as [string, string];
  return builder.value(RowNorm, [weight, a, b], { alpha: scale }, `${module}.norm`);
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
export const dora: AdapterKind<"dora"> = {
  name: "dora",
  summary: "low-rank adapters with a length for each output (DoRA)",
  peft: { type: "LORA", flags: ["use_dora"] },
  sites: ["linear"],
  siteOf: lowRankSite,
  parts: (site, rank) => [...lowRankParts(site, rank), { suffix: MAGNITUDE, shape: magnitudes(site) }],
  linear(layer, size) {
    const { builder, module, x, bias, parameter, site } = layer;
    const dropped = layer.dropped();
    const update = lowRank(layer, size.rank);
    const adapted = addUpdate(layer, product({ ...layer, x: dropped, bias: null }), update, size.scale);
    const magnitude = parameter({ suffix: MAGNITUDE, shape: magnitudes(site) });
    const norm = layer.resting
      ? parameter({ suffix: dora.computed!.constant, shape: dora.computed!.shape(site) })
      : rowNorms(layer, size);
    const operands = [adapted, magnitude, norm];
    if (dropped === x) return builder.value(ScaleColumns, bias === null ? operands : [...operands, bias], {}, `${module}.scaled`);
    const lost = builder.value(Add, [x, builder.value(Affine, [dropped], { alpha: -1, beta: 0 })], {}, `${module}.lost`);
    const rest = product({ ...layer, x: lost }, `${module}.rest`);
    return builder.value(ScaleColumns, [...operands, rest], {}, `${module}.scaled`);
  },
  initialise: (part, random) => (part.suffix === MAGNITUDE ? null : initialiseLowRank(part, random)),
  computed: { begins: MAGNITUDE, constant: "lora_norm", shape: magnitudes, value: rowNorms },
  merge(weight, site, size, read) {
    mergeLowRank(weight, site, size, read);
    const { layer, rows, columns } = site;
    const magnitude = read(MAGNITUDE);
    const at = (row: number, column: number) => (layer === "embedding" ? column : row);
    const squares = new Float64Array(magnitude.length);
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) squares[at(row, column)]! += weight[row * columns + column]! ** 2;
    const factors = magnitude.map((length, i) => length / Math.sqrt(squares[i]!));
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) weight[row * columns + column]! *= factors[at(row, column)]!;
  },
  gguf: () => null,
};
