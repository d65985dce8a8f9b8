import { type Automaton, createAutomaton, type State } from "./automaton.ts";
import type { Expression } from "./expression.ts";
import { addToken, type TokenSet, type Trie, type Vocabulary } from "./vocabulary.ts";

/** States and sets of tokens that are kept: those of one grammar stay below some 20 MB with a vocabulary of 150,000. */
const MOST_STATES = 4096;
const MOST_SET_BYTES = 8 << 20;

/** A set of texts, over the tokens of a vocabulary. */
export interface Grammar {
  readonly vocabulary: Vocabulary;
  /** Another one from time to time, when the last one has made many states: its states are no other's. */
  readonly automaton: Automaton;
  /** The tokens that may come next. */
  allowed(state: State): TokenSet;
  /** The state behind a token; null if it may not come. */
  behind(state: State, id: number): State | null;
}

export function createGrammar(expression: Expression, vocabulary: Vocabulary): Grammar {
  let automaton = createAutomaton(expression);
  /** The one that was made longest ago first. */
  let sets = new Map<State, TokenSet>();
  const mostSets = Math.max(16, Math.floor(MOST_SET_BYTES / (4 * vocabulary.words)));
  const stack: State[] = [];

  /** Adds the tokens of a trie that may come. */
  const walk = (trie: Trie, from: State, set: TokenSet): void => {
    const { nodes, byte, depth, skip, ends, tokens } = trie;
    const { step } = automaton;
    stack[0] = from;
    for (let node = 0; node < nodes;) {
      const level = depth[node]!;
      const above = stack[level - 1]!;
      let state = above.next[byte[node]!];
      if (state === undefined) state = step(above, byte[node]!);
      if (state === null) {
        node = skip[node]!;
        continue;
      }
      stack[level] = state;
      for (let at = ends[node]!; at < ends[node + 1]!; at++) addToken(set, tokens[at]!);
      node++;
    }
  };

  const make = (state: State): TokenSet => {
    const { words, inString, characters, mostCharacters, all, others } = vocabulary;
    if (state.characters === 0) {
      const set = new Uint32Array(words);
      walk(all, state, set);
      return set;
    }
    const set = inString.slice();
    if (state.characters < mostCharacters)
      for (let id = 0; id < characters.length; id++) if (characters[id]! > state.characters) set[id >>> 5]! &= ~(1 << (id & 31));
    walk(others, state, set);
    return set;
  };

  return {
    vocabulary,
    get automaton() {
      if (automaton.states > MOST_STATES) {
        automaton = createAutomaton(expression);
        sets = new Map();
      }
      return automaton;
    },
    allowed(state) {
      let set = sets.get(state);
      if (!set) {
        set = make(state);
        for (const oldest of sets.keys()) {
          if (sets.size < mostSets) break;
          sets.delete(oldest);
        }
        sets.set(state, set);
      }
      return set;
    },
    behind(state, id) {
      let reached: State | null = state;
      for (const byte of vocabulary.bytes.of(id)) if ((reached = automaton.step(reached, byte)) === null) return null;
      return reached;
    },
  };
}
