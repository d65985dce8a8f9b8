import type { Tokenizer } from "../tokens/tokenizer.ts";

/** The label of a position that is not trained on, as in PyTorch and Transformers. */
export const IGNORED = -100;

/**
 * A tokenized example. As in Transformers, `labels[t]` is `ids[t]` where that token is to be learned and `IGNORED`
 * elsewhere; the shift to "the next token of position t" happens when batches are made.
 */
export interface Sample {
  readonly ids: Int32Array;
  readonly labels: Int32Array;
  /** How much each label counts, above 0; null: all the same. */
  readonly weights: Float32Array | null;
  /** Tokens of each text, where the sample is several texts that do not see each other, one behind the other; absent: it is one. */
  readonly parts?: readonly number[];
  /** Numbers that are said of the sample as a whole, or of each of its texts: a class, ones and zeros of several, a value, 1 for a desirable answer; absent: none. */
  readonly target?: Float32Array | undefined;
  /** By text, the tokens in front of the second of two parts that an encoder tells apart by their types, or of the end where there is none; absent: nothing is told. */
  readonly seconds?: readonly number[] | undefined;
  /** The tokens that a teacher finds likeliest in the place of each labelled token, of which none is the first; absent: nobody says. */
  readonly teacher?: TeacherTokens | undefined;
  /** `file:line` */
  readonly where: string;
}

/** The tokens that a teacher finds likeliest in some places, the same number for each, one place behind the other. */
export interface TeacherTokens {
  readonly top: number;
  readonly ids: Int32Array;
  readonly logProbabilities: Float32Array;
}

/** A run of a sample's tokens with the same masking, decoded. */
export interface SamplePart {
  readonly text: string;
  readonly trained: boolean;
}

/** The sample as text, cut where the masking changes and where a text ends: for showing what is trained on. */
export function sampleParts(tokenizer: Tokenizer, sample: Sample): SamplePart[] {
  const parts: SamplePart[] = [];
  let start = 0;
  for (const length of sample.parts ?? [sample.ids.length]) {
    const end = start + length;
    let before = "";
    for (let from = start; from < end;) {
      const trained = sample.labels[from] !== IGNORED;
      let to = from + 1;
      while (to < end && (sample.labels[to] !== IGNORED) === trained) to++;
      // Some decoders drop the space at the start of a text, so a part is what it adds to the text before it.
      const text = tokenizer.decode(sample.ids.subarray(start, to));
      parts.push({ text: text.slice(before.length), trained });
      before = text;
      from = to;
    }
    start = end;
  }
  return parts;
}
