import { UserError } from "../../base/errors.ts";
import { type Expression, measure } from "./expression.ts";
import { CHARACTER } from "./json-text.ts";

/** What is still to come, a stack of expressions. Equal stacks are one object, so that states can be told apart by the numbers of theirs. */
interface Rest {
  readonly id: number;
  readonly head: Expression | null;
  readonly tail: Rest | null;
  /** The least number of bytes that are to come. */
  readonly least: number;
  /** The stacks that have one expression more. */
  readonly longer: Map<Expression, Rest>;
  reached: Reached | null;
}

/** Where one can be without reading a byte. */
interface Reached {
  /** Those whose head is a set of bytes. */
  readonly waiting: readonly Rest[];
  /** The text may end. */
  readonly isEnd: boolean;
  readonly characters: number;
}

/** All that may come behind a text. */
export interface State {
  /** The text may end here. */
  readonly isEnd: boolean;
  /** The text may go on. */
  readonly goesOn: boolean;
  /** The least number of bytes until the text may end. */
  readonly least: number;
  /** The number of characters of a JSON string that may follow, whichever they are. */
  readonly characters: number;
  readonly waiting: readonly Rest[];
  /** By byte: null if none of the texts goes on with it, undefined if nobody asked. */
  readonly next: (State | null | undefined)[];
}

/**
 * Reads texts byte by byte and knows what may follow. States are made when they are first reached: each is a set of stacks, as an expression
 * may be read in several ways at a time (Antimirov 1996, https://doi.org/10.1016/0304-3975(95)00182-4; the stacks make it a pushdown automaton).
 */
export interface Automaton {
  readonly start: State;
  /** The state behind a byte more; null: no text goes on so. */
  step(state: State, byte: number): State | null;
  /** The number of states that were made. */
  readonly states: number;
}

/** Ways to read a text, at most. */
const MOST_WAYS = 10_000;

/**
 * @param root may be infinite, but for what it reaches without a byte
 * @throws {UserError} a text, in the making or in `step`, that may be read in too many ways
 */
export function createAutomaton(root: Expression): Automaton {
  const lengthOf = measure(root);
  const states = new Map<string, State>();
  let rests = 0;
  const END: Rest = { id: rests++, head: null, tail: null, least: 0, longer: new Map(), reached: null };
  const push = (head: Expression, tail: Rest): Rest => {
    let rest = tail.longer.get(head);
    if (!rest) {
      rest = { id: rests++, head, tail, least: lengthOf(head) + tail.least, longer: new Map(), reached: null };
      tail.longer.set(head, rest);
    }
    return rest;
  };

  const reach = (from: Rest): Reached => {
    if (from.reached) return from.reached;
    const waiting = new Set<Rest>();
    let isEnd = false;
    let characters = 0;
    const seen = new Set<Rest>();
    const open = [from];
    for (let rest = open.pop(); rest; rest = open.pop()) {
      // What never ends is no way to go.
      if (seen.has(rest) || rest.least === Infinity) continue;
      seen.add(rest);
      const { head, tail } = rest;
      if (head === null) isEnd = true;
      else if (head.kind === "bytes") waiting.add(rest);
      else if (head.kind === "choice") for (const option of head.options) open.push(push(option, tail!));
      else if (head.kind === "sequence") open.push(head.items.reduceRight((behind, item) => push(item, behind), tail!));
      else if (head.kind === "reference") open.push(push(head.target!, tail!));
      else {
        if (head.least === 0) open.push(tail!);
        if (head.most > 0) open.push(push(head.item, head.most === 1 ? tail! : push(head.rest(), tail!)));
        if (head.item === CHARACTER) characters = Math.max(characters, head.most);
      }
    }
    return (from.reached = { waiting: [...waiting].sort((a, b) => a.id - b.id), isEnd, characters });
  };

  const stateOf = (rests: readonly Rest[]): State => {
    const reached = rests.map(reach);
    const waiting =
      reached.length === 1
        ? reached[0]!.waiting
        : [...new Set(reached.flatMap((each) => each.waiting))].sort((a, b) => a.id - b.id);
    const isEnd = reached.some((each) => each.isEnd);
    if (waiting.length > MOST_WAYS)
      throw new UserError(
        `the schema lets a text be read in more than ${MOST_WAYS} ways at a time; simplify its alternatives and patterns`,
      );
    const key = `${isEnd ? "." : ""}${waiting.map(({ id }) => id).join(" ")}`;
    let state = states.get(key);
    if (!state) {
      state = {
        isEnd,
        goesOn: waiting.length > 0,
        least: isEnd ? 0 : waiting.reduce((least, rest) => Math.min(least, rest.least), Infinity),
        characters: Math.max(...reached.map((each) => each.characters)),
        waiting,
        next: Array.from({ length: 256 }),
      };
      states.set(key, state);
    }
    return state;
  };

  return {
    start: stateOf([push(root, END)]),
    step(state, byte) {
      const known = state.next[byte];
      if (known !== undefined) return known;
      const rests = state.waiting.filter(({ head }) => head!.kind === "bytes" && head!.set[byte] === 1).map(({ tail }) => tail!);
      return (state.next[byte] = rests.length === 0 ? null : stateOf(rests));
    },
    get states() {
      return states.size;
    },
  };
}
