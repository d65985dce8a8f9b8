import type { AdapterKind } from "./kind.ts";
import {
  addEmbedding,
  addUpdate,
  initialiseLowRank,
  lowRank,
  lowRankParts,
  lowRankSite,
  mergeLowRank,
  pairOf,
  product,
} from "./low-rank.ts";

/** Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685): y += scale (dropout(x) A^T) B^T. */
export const lora: AdapterKind<"lora"> = {
  name: "lora",
  summary: "low-rank adapters",
  peft: { type: "LORA", flags: [] },
  sites: ["linear", "head", "embedding"],
  siteOf: lowRankSite,
  parts: lowRankParts,
  linear(layer, { rank, scale }) {
    const y = product(layer);
    return addUpdate(layer, y, lowRank(layer, rank), scale);
  },
  embedding: addEmbedding,
  head: (layer, { rank }) => lowRank(layer, rank),
  initialise: initialiseLowRank,
  merge: mergeLowRank,
  gguf: pairOf,
};
