import { elements } from "../graph/types.ts";
import { AdamW8bit, CODES_BLOCK, dynamicMap, withMaps } from "../ops/adamw-8bit.ts";
import { ADAMW_DEFAULTS, adamWHyper, adamWRule, type AdamWSettings } from "./adamw.ts";
import { defineOptimizer, type UpdateRule } from "./optimizer.ts";

/** The least number of elements of a parameter whose moments are codes, as in bitsandbytes. */
const LEAST_ELEMENTS = 4096;

/**
 * AdamW with moments of eight bits (Dettmers et al. 2022, https://arxiv.org/abs/2110.02861; bitsandbytes' AdamW8bit): codes
 * with a scale for every 256 elements, 2.03 bytes for each element. Parameters of fewer than 4096 elements keep f32.
 */
export const adamw8bit = defineOptimizer({
  learningRate: 2e-4,
  defaults: ADAMW_DEFAULTS,
  rules(settings) {
    const codes = codesRule(settings);
    const plain = adamWRule(settings);
    return ({ type }) => (elements(type.shape) < LEAST_ELEMENTS ? plain : codes);
  },
});

function codesRule(settings: AdamWSettings): UpdateRule {
  const per = { block: CODES_BLOCK };
  return {
    name: "adamw8bit",
    slots: [
      // Codes of 0, so that what stands behind the end of a parameter is 0 in a block that a checkpoint brings back.
      { name: "codes1", dtype: "u8", per: "element", start: dynamicMap(true).indexOf(0) },
      { name: "codes2", dtype: "u8", per: "element", start: dynamicMap(false).indexOf(0) },
      { name: "scales1", dtype: "f32", per, start: 0 },
      { name: "scales2", dtype: "f32", per, start: 0 },
    ],
    reach: { multipleOf: CODES_BLOCK },
    hyperSize: withMaps([]).length + 8,
    hyper: (step) => withMaps(adamWHyper(settings, step)),
    update(builder) {
      const inputs = ["param", "gradient", "codes1", "codes2", "scales1", "scales2", "hyper"];
      const [param, codes1, codes2, scales1, scales2] = builder.node(AdamW8bit, inputs, {}, "next");
      return { param: param!, codes1: codes1!, codes2: codes2!, scales1: scales1!, scales2: scales2! };
    },
  };
}
