import { z } from "zod";
import { TOKEN_HEAD, TOKEN_METRICS } from "./next-token.ts";
import { defineObjective } from "./objective.ts";

/**
 * Masked language modelling (Devlin et al. 2018, https://arxiv.org/abs/1810.04805): the mean cross entropy (nats) of tokens that are hidden from a model that
 * sees both sides of them. Which ones is drawn anew in each epoch.
 */
export const mlm = defineObjective({
  name: "mlm",
  summary: "tokens that are hidden in texts, by a text encoder (masked language modelling)",
  accepts: ["text"],
  texts: 1,
  masked: ({ maskShare }) => maskShare,
  metrics: TOKEN_METRICS,
  flags: {
    maskShare: z.number().gt(0).lt(1).default(0.15).describe("mlm: share of the tokens that are hidden and predicted"),
  },
  create: () => TOKEN_HEAD,
});
