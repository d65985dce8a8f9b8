/** Lets a text through up to the first of some stop sequences, which may come in several pieces. */
export interface StopText {
  /** Returns what of the text so far is certain to come before any stop sequence; `isStopped` when one has come. */
  push(piece: string): { readonly text: string; readonly isStopped: boolean };
  /** Returns what was held back because a stop sequence could have begun in it. */
  end(): string;
}

/**
 * The sequence that is complete first ends the text, whatever the pieces are; of those that end at the same character, the
 * longest. Nothing of it is let through.
 */
export function createStopText(sequences: readonly string[]): StopText {
  let held = "";
  return {
    push(piece) {
      const text = held + piece;
      let end = Infinity;
      let start = text.length;
      for (const sequence of sequences) {
        const at = text.indexOf(sequence);
        const to = at + sequence.length;
        if (at >= 0 && (to < end || (to === end && at < start))) [start, end] = [at, to];
      }
      if (end < Infinity) {
        held = "";
        return { text: text.slice(0, start), isStopped: true };
      }
      const kept = Math.max(0, ...sequences.map((sequence) => overlap(text, sequence)));
      held = text.slice(text.length - kept);
      return { text: text.slice(0, text.length - kept), isStopped: false };
    },
    end() {
      const rest = held;
      held = "";
      return rest;
    },
  };
}

/** The length of the longest end of `text` that begins `sequence` and is not all of it. */
export function overlap(text: string, sequence: string): number {
  let length = Math.min(text.length, sequence.length - 1);
  while (length > 0 && !text.endsWith(sequence.slice(0, length))) length--;
  return length;
}
