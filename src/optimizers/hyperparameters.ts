import { z } from "zod";

/**
 * The hyperparameters that optimizers have, by the names that the field has for them: what a value may be, and what it is.
 * The defaults are each optimizer's own.
 */
export const HYPERPARAMETERS = {
  weightDecay: {
    type: z.number().min(0),
    description: "weight decay of matrices (decoupled; with sgd it is added to the gradient)",
  },
  beta1: { type: z.number().min(0).lt(1), description: "decay of the first moment" },
  beta2: { type: z.number().min(0).lt(1), description: "decay of the second moment, or of lion's momentum" },
  epsilon: { type: z.number().positive(), description: "what AdamW adds to the root of the second moment" },
  momentum: { type: z.number().min(0).lt(1), description: "decay of the momentum" },
  nesterov: { type: z.boolean(), description: "look ahead along the momentum (Nesterov)" },
  adjustLr: {
    type: z.enum(["match-rms-adamw", "original"]),
    description:
      "factor of muon's learning rate: 0.2 sqrt(the longer side), which makes its steps as long as AdamW's, or sqrt(rows / columns), at least 1",
  },
} as const satisfies Record<string, { type: z.ZodType; description: string }>;

export type Hyperparameter = keyof typeof HYPERPARAMETERS;
export type Hyperparameters = { readonly [K in Hyperparameter]: z.output<(typeof HYPERPARAMETERS)[K]["type"]> };
