import { createRandom } from "../../base/random.ts";
import { UserError } from "../../base/errors.ts";
import type { Tokenizer } from "../tokens/tokenizer.ts";
import type { Batches, MicroBatch, Span } from "./batch.ts";
import { IGNORED } from "./sample.ts";

/** Describes which tokens a model that sees both sides is to guess. */
export interface Masking {
  /** How likely a token is to be hidden. */
  readonly share: number;
  readonly seed: number;
  readonly maskId: number;
  /** Tokens that are never hidden. */
  readonly special: ReadonlySet<number>;
  /** Ids from 0 up to this are put in the place of some. */
  readonly vocabulary: number;
}

/** @throws {UserError} a tokenizer without a token for what is hidden */
export function maskingOf(
  tokenizer: Pick<Tokenizer, "folder" | "namedTokens" | "specialTokens" | "size" | "idOf">,
  { share, seed, vocabSize }: Pick<Masking, "share" | "seed"> & { readonly vocabSize: number },
): Masking {
  const { mask_token: mask } = tokenizer.namedTokens;
  const maskId = mask === undefined ? null : tokenizer.idOf(mask);
  if (maskId === null)
    throw new UserError(
      `${tokenizer.folder}: tokenizer_config.json names no mask_token that the vocabulary has; expected the tokenizer of a model for masked tokens`,
    );
  const special = new Set(tokenizer.specialTokens.values());
  return { share, seed, maskId, special, vocabulary: Math.min(vocabSize, tokenizer.size) };
}

/** The shares of the hidden tokens that become the token that says so, and any other; the rest stay as they are. */
const [MASKED, REPLACED] = [0.8, 0.1];

/**
 * Batches in which some tokens of each example are hidden and to be predicted where they are (Devlin et al. 2018,
 * https://arxiv.org/abs/1810.04805): other ones in each epoch, drawn from seed, epoch and the example's number alone, so that a run continues anywhere. Every
 * example has at least one.
 */
export function withMasks(batches: Batches, masking: Masking): Batches {
  return { ...batches, batch: (epoch, index) => masked(batches.batch(epoch, index), masking, epoch) };
}

function masked(batch: MicroBatch, masking: Masking, epoch: number): MicroBatch {
  const ids = batch.ids.slice();
  const labels = new Int32Array(ids.length).fill(IGNORED);
  let labelled = 0;
  for (const [i, spans] of batch.spans.entries()) {
    const random = createRandom(masking.seed, `mask ${epoch} ${batch.members[i]}`);
    for (const at of hidden(batch.ids, spans, masking, random.uniform)) {
      labels[at] = ids[at]!;
      labelled++;
      const kind = random.uniform();
      if (kind < MASKED) ids[at] = masking.maskId;
      else if (kind < MASKED + REPLACED) ids[at] = random.below(masking.vocabulary);
    }
  }
  return { ...batch, ids, labels, weights: null, labelled, weight: labelled };
}

/** Places of the tokens that are hidden; where none is drawn, the one that came nearest to it. */
function hidden(ids: Int32Array, spans: readonly Span[], { share, special }: Masking, uniform: () => number): number[] {
  const places: number[] = [];
  let [nearest, least] = [-1, Infinity];
  for (const { from, to } of spans) {
    for (let at = from; at < to; at++) {
      if (special.has(ids[at]!)) continue;
      const draw = uniform();
      if (draw < share) places.push(at);
      if (draw < least) [nearest, least] = [at, draw];
    }
  }
  return places.length === 0 && nearest >= 0 ? [nearest] : places;
}
