import type { Constraint } from "../sampler.ts";
import type { State } from "./automaton.ts";
import type { Grammar } from "./grammar.ts";
import type { TokenSet } from "./vocabulary.ts";

/** The marks of reasoning, which may come before the text of a grammar and is free. */
export interface FreeReasoning {
  /** null: the prompt ends within it. */
  readonly open: number | null;
  readonly close: number;
}

export interface ConstraintOptions {
  readonly grammar: Grammar;
  /** The tokens that end the text. */
  readonly stop: ReadonlySet<number>;
  /** Tokens of the answer at most, with the one that ends it. */
  readonly limit: number;
  readonly reasoning: FreeReasoning | null;
}

/** Stands for the end of a text where no token does; generation takes it for one that ends texts. */
export const NO_TOKEN = -1;

/**
 * Keeps one answer the beginning of a text of a grammar. As the limit comes near, tokens behind which the text could not be ended any more are left
 * out, so that it is whole if the limit leaves room for the shortest one.
 */
export function createConstraint({ grammar, stop, limit, reasoning }: ConstraintOptions): Constraint {
  const [end = NO_TOKEN] = stop;
  const ids: number[] = [];
  let { automaton } = grammar;
  let state = automaton.start;
  let phase: "before" | "inside" | "text" = reasoning === null ? "text" : reasoning.open === null ? "inside" : "before";
  let begin: number | null = null;
  /** Tokens that may be chosen, this one included. */
  let left = limit;
  let refused = 0;

  /** The states of an automaton that is not used any more are found again in the new one. */
  const renew = () => {
    if (grammar.automaton === automaton) return;
    ({ automaton } = grammar);
    state = ids.reduce((from: State, id) => grammar.behind(from, id)!, automaton.start);
  };
  const endsInTime = (behind: State) => behind.least + 2 <= left;
  const leaveOnly = (logits: Float32Array, kept: readonly number[]) => {
    const values = kept.map((id) => logits[id]!);
    logits.fill(-Infinity);
    kept.forEach((id, i) => (logits[id] = values[i]!));
  };

  return {
    get end() {
      return phase === "text" && state.isEnd && (!state.goesOn || stop.size === 0) ? end : null;
    },
    allow(logits, text) {
      begin ??= text.length;
      left = limit - (text.length - begin);
      refused = 0;
      renew();
      if (phase === "inside") {
        // The mark and the shortest text have to find room.
        if (state.least + 3 > left) leaveOnly(logits, [reasoning!.close]);
        else for (const id of stop) logits[id] = -Infinity;
        return;
      }
      const also = phase === "before" ? [reasoning!.open!] : state.isEnd ? [...stop].filter((id) => id >= 0) : [];
      const values = also.map((id) => logits[id]!);
      const never = [...stop].filter((id) => id >= 0);
      keepOnly(logits, grammar.allowed(state));
      for (const id of never) logits[id] = -Infinity;
      also.forEach((id, i) => (logits[id] = values[i]!));
    },
    take(id, logits) {
      if (stop.has(id)) return true;
      if (phase === "before" && id === reasoning!.open) {
        if (state.least + 1 <= left && state.least + 3 > left) {
          logits[id] = -Infinity;
          return false;
        }
        phase = "inside";
        return true;
      }
      if (phase === "inside") {
        if (id === reasoning!.close) phase = "text";
        return true;
      }
      const behind = grammar.behind(state, id)!;
      if (state.least + 1 <= left && !endsInTime(behind)) {
        logits[id] = -Infinity;
        // A few tries are cheaper than to look at all tokens.
        if (++refused === TRIES)
          for (let other = 0; other < logits.length; other++) {
            if (logits[other] === -Infinity || stop.has(other) || (phase === "before" && other === reasoning!.open)) continue;
            if (!endsInTime(grammar.behind(state, other)!)) logits[other] = -Infinity;
          }
        return false;
      }
      phase = "text";
      ids.push(id);
      state = behind;
      return true;
    },
  };
}

const TRIES = 3;

/** Leaves the logits of a set of tokens; all others are -Infinity. */
function keepOnly(logits: Float32Array, set: TokenSet): void {
  const words = Math.min(set.length, Math.ceil(logits.length / 32));
  for (let word = 0; word < words; word++) {
    const bits = set[word]!;
    if (bits === 0xffffffff) continue;
    const from = 32 * word;
    const to = Math.min(from + 32, logits.length);
    if (bits === 0) logits.fill(-Infinity, from, to);
    else
      for (let missing = ~bits; missing !== 0; missing &= missing - 1) {
        const id = from + 31 - Math.clz32(missing & -missing);
        if (id < to) logits[id] = -Infinity;
      }
  }
  logits.fill(-Infinity, Math.min(logits.length, 32 * words));
}
