import { areFinite, type Compensated, encodeWithRest, type Encoding } from "../../base/codes.ts";
import { UserError } from "../../base/errors.ts";
import type { EarlierOrder } from "./messages.ts";

/**
 * Gradients in codes, with error feedback: what the codes of a micro-batch leave out is added to the gradients of the micro-batch of the same index in the next
 * step. It belongs to the index, whoever computes it, so that the result does not depend on who does; but it is never sent, which would
 * take more than the codes save. A process that takes an index over computes its rest again, from the parameters that the earlier steps had.
 *
 * So that there are never many of those, steps come in periods: in the last step of each, gradients travel in f32 with all that is left, and the
 * first one begins without a rest. At the end of a period exactly what f32 would have sent has arrived, but for the rounding of the sums.
 */

/** Steps of a period. */
const PERIOD = 8;

/** The place of a step in its period, from 0; without codes each step is a period. */
export function placeInPeriod(step: number, encoding: Encoding): number {
  return encoding === "f32" ? 0 : (step - 1) % PERIOD;
}

export interface EncodedGradients {
  readonly encoding: Encoding;
  readonly bytes: Uint8Array<ArrayBuffer>;
  /** The gradients as the receiver has them. */
  readonly values: Float32Array<ArrayBuffer>;
}

/** What the codes of one process have left out. */
export interface Rests {
  /** Encodes a micro-batch's gradients and what was left of those in the step before. @throws {Error} where that is not known */
  encode(order: Pick<EarlierOrder, "step" | "index" | "factor">, gradients: Float32Array<ArrayBuffer>): EncodedGradients;
}

/** What is left of an index. */
interface Rest {
  /** The step whose gradients it is added to. */
  readonly step: number;
  /** The factor of the gradients that it is in. */
  readonly factor: number;
  /** Null: nothing is left. */
  readonly values: Float32Array<ArrayBuffer> | null;
}

export function createRests(encoding: Encoding): Rests {
  const known = new Map<number, Rest>();
  return {
    encode({ step, index, factor }, gradients) {
      const place = placeInPeriod(step, encoding);
      const rest = place === 0 ? null : known.get(index);
      if (rest?.step !== step && place > 0) throw new Error(`step ${step}: what was left of micro-batch ${index} is not known`);
      const left = rest?.values && scaled(rest.values, factor / rest.factor);
      const plain = (): EncodedGradients => {
        if (left) for (let i = 0; i < gradients.length; i++) gradients[i] = gradients[i]! + left[i]!;
        return { encoding: "f32", bytes: new Uint8Array(gradients.buffer), values: gradients };
      };
      if (encoding === "f32" || place === PERIOD - 1) {
        known.delete(index);
        return plain();
      }
      const coded = encodeIfFinite(gradients, left ?? null, encoding);
      // Of what is not finite the step makes nothing: it is sent as it is, and what was left stays.
      known.set(index, { step: step + 1, factor, values: coded ? coded.rest : (left ?? null) });
      return coded ? { encoding, bytes: coded.bytes, values: coded.sent } : plain();
    },
  };
}

/** Null: a value is no number or infinite, or would be in codes. */
function encodeIfFinite(gradients: Float32Array, left: Float32Array | null, encoding: Encoding): Compensated | null {
  if (!areFinite(gradients)) return null;
  try {
    return encodeWithRest(gradients, left, encoding);
  } catch (error) {
    if (error instanceof UserError) return null;
    throw error;
  }
}

/** Factors are powers of two: the product is exact. */
function scaled(values: Float32Array<ArrayBuffer>, factor: number): Float32Array<ArrayBuffer> {
  return factor === 1 ? values : values.map((value) => value * factor);
}
