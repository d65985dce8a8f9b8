import type { Encoding } from "../../base/codes.ts";
import type { EarlierOrder, Part } from "./messages.ts";
import { createRests } from "./rests.ts";
import type { TrainedVector } from "./trained-vector.ts";

/** Learns a micro-batch from gradients of 0, with the parameters that are there. */
export type Learn = (order: EarlierOrder) => Promise<Part>;

/** The micro-batches that a coordinator learns itself. */
export interface OwnWork {
  /**
   * Learns one as a worker does, through the same codes.
   * @param missing the same index in earlier steps, which are computed again, with their parameters
   * @param parameters those of the step
   */
  learn(
    order: EarlierOrder,
    missing: readonly { readonly order: EarlierOrder; readonly values: Uint8Array }[],
    parameters: () => Uint8Array,
    learn: Learn,
  ): Promise<{ readonly part: Part; readonly gradients: Float32Array; readonly seconds: number }>;
}

interface OwnWorkOptions {
  readonly vector: TrainedVector;
  readonly encoding: Encoding;
  zeroGradients(): void;
  /** Milliseconds. */
  now(): number;
}

export function createOwnWork({ vector, encoding, zeroGradients, now }: OwnWorkOptions): OwnWork {
  const rests = createRests(encoding);
  const one = async (order: EarlierOrder, learn: Learn) => {
    zeroGradients();
    const part = await learn(order);
    return { part, gradients: rests.encode(order, vector.gradients()).values };
  };
  return {
    async learn(order, missing, parameters, learn) {
      if (missing.length > 0) {
        // Copied before they are changed.
        const present = parameters();
        for (const before of missing) {
          vector.setParameters(before.values);
          await one(before.order, learn);
        }
        vector.setParameters(present);
      }
      const begin = now();
      return { ...(await one(order, learn)), seconds: (now() - begin) / 1000 };
    },
  };
}
