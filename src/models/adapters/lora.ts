import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { isExpertParameter } from "./expert-parameters.ts";
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
  flags: {
    ...lowRankFlags,
    targetParameters: z
      .array(z.string().min(1))
      .min(1)
      .optional()
      .describe(
        "parameters of all experts of a block that get an adapter beside the targets, by the ends of their names in Transformers 5: mlp.experts.gate_up_proj,mlp.experts.down_proj",
      ),
  },
  settings: lowRankSettings,
  check(asked, adapted) {
    checkPatterns(asked, adapted);
    if (asked.targetParameters !== undefined && asked.dropout)
      throw new UserError(`--dropout ${asked.dropout}: adapters of --target-parameters have no dropout, as in PEFT; expected 0`);
  },
  asked(settings, setups) {
    const parameters = [...setups.keys()].filter(isExpertParameter);
    return { ...lowRankAsked(settings), ...(parameters.length > 0 && { targetParameters: parameters }) };
  },
  setup: lowRankSetup,
  describe: describeLowRank,
  peft: lowRankPeft({ hasParameters: true }),
  sites: ["linear", "head", "embedding", "experts"],
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
