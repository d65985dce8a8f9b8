import { defineAdapter } from "./kind.ts";
import {
  addEmbedding,
  addUpdate,
  initialiseLowRank,
  LOW_RANK_NAMES,
  lowRank,
  lowRankParts,
  lowRankShape,
  lowRankUpdate,
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
} from "./low-rank-settings.ts";

/** Low-rank adaptation (Hu et al. 2021, https://arxiv.org/abs/2106.09685): y += scale (dropout(x) A^T) B^T. */
export const lora = defineAdapter({
  name: "lora",
  title: "LoRA",
  summary: "low-rank adapters",
  flags: lowRankFlags,
  settings: lowRankSettings,
  check: checkPatterns,
  asked: lowRankAsked,
  setup: lowRankSetup,
  describe: describeLowRank,
  peft: lowRankPeft(),
  sites: ["linear", "head", "embedding"],
  names: LOW_RANK_NAMES,
  shapeOf: lowRankShape,
  parts: lowRankParts,
  linear(layer, setup) {
    const y = product(layer);
    return addUpdate(layer, y, lowRank(layer, setup));
  },
  embedding: addEmbedding,
  head: lowRank,
  initialise: initialiseLowRank,
  merge: mergeLowRank,
  update: lowRankUpdate,
});
