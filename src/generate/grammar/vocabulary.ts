import type { TokenBytes } from "../../data/tokens/token-bytes.ts";
import { createAutomaton } from "./automaton.ts";
import { repeat } from "./expression.ts";
import { CHARACTER } from "./json-text.ts";

/** The tokens that a grammar may choose among, by their bytes. */
export interface Vocabulary {
  readonly bytes: TokenBytes;
  /** Words of 32 bits in a set of tokens. */
  readonly words: number;
  /** Tokens that are whole characters of a JSON string: in nearly all states within a string they may all come. */
  readonly inString: TokenSet;
  /** The number of characters of each of them; 0 for other tokens. */
  readonly characters: Uint8Array;
  /** The most of these numbers. */
  readonly mostCharacters: number;
  readonly all: Trie;
  /** The tokens that are not `inString`. */
  readonly others: Trie;
  /** Each byte that a JSON text may have is a token by itself: whatever begins a text, it can be ended. */
  readonly hasBytes: boolean;
}

/** A bit for each token, the lowest of the first word for token 0. */
export type TokenSet = Uint32Array;

export const addToken = (set: TokenSet, id: number): void => void (set[id >>> 5]! |= 1 << (id & 31));
export const hasToken = (set: TokenSet, id: number): boolean => ((set[id >>> 5]! >>> (id & 31)) & 1) === 1;

/** Token texts that begin alike share nodes. The nodes come in the order of a walk: each before what is below it. */
export interface Trie {
  readonly nodes: number;
  readonly byte: Uint8Array;
  /** The number of bytes up to and with the node's. */
  readonly depth: Uint16Array;
  /** The node behind all that are below this one. */
  readonly skip: Int32Array;
  /** The tokens that end at node n: `tokens` from `ends[n]` up to `ends[n + 1]`. */
  readonly ends: Int32Array;
  readonly tokens: Int32Array;
}

/** @param excluded tokens that are no text: those that end answers, open turns and so on */
export function createVocabulary(bytes: TokenBytes, excluded: ReadonlySet<number>): Vocabulary {
  const words = Math.ceil(bytes.size / 32);
  const inString = new Uint32Array(words);
  const characters = new Uint8Array(bytes.size);
  const count = createCounter();
  const all: number[] = [];
  for (let id = 0; id < bytes.size; id++) {
    const own = bytes.of(id);
    if (own.length === 0 || excluded.has(id)) continue;
    all.push(id);
    characters[id] = count(own);
    if (characters[id]! > 0) addToken(inString, id);
  }
  all.sort((a, b) => Buffer.compare(bytes.of(a), bytes.of(b)));
  const singles = new Set(all.filter((id) => bytes.of(id).length === 1).map((id) => bytes.of(id)[0]!));
  return {
    bytes,
    words,
    inString,
    characters,
    mostCharacters: characters.reduce((most, own) => Math.max(most, own), 0),
    all: createTrie(bytes, all),
    others: createTrie(
      bytes,
      all.filter((id) => characters[id] === 0),
    ),
    hasBytes: Array.from({ length: 0xf5 }, (_, byte) => byte).every(
      (byte) => singles.has(byte) || byte < 0x20 || byte === 0x7f || byte === 0xc0 || byte === 0xc1,
    ),
  };
}

/** Counts the characters of a JSON string that bytes are; 0 for what is not whole characters, or more of them than a byte says. */
function createCounter(): (own: Uint8Array) => number {
  const { start, step } = createAutomaton(repeat(CHARACTER, 0));
  return (own) => {
    let count = 0;
    let state: typeof start | null = start;
    for (const byte of own) {
      if ((state = step(state, byte)) === null) return 0;
      if (state.isEnd) count++;
    }
    return state.isEnd && count <= 255 ? count : 0;
  };
}

/** @param sorted tokens by their bytes */
function createTrie(bytes: TokenBytes, sorted: readonly number[]): Trie {
  const most = sorted.reduce((sum, id) => sum + bytes.of(id).length, 0);
  const byte = new Uint8Array(most);
  const depth = new Uint16Array(most);
  const skip = new Int32Array(most);
  const ends = new Int32Array(most + 1);
  const tokens = Int32Array.from(sorted);
  let nodes = 0;
  /** The nodes on the way to the last token's. */
  const path: number[] = [];
  for (const [at, id] of sorted.entries()) {
    const own = bytes.of(id);
    let shared = 0;
    while (shared < path.length && shared < own.length && byte[path[shared]!] === own[shared]) shared++;
    for (const node of path.splice(shared)) skip[node] = nodes;
    for (let place = shared; place < own.length; place++) {
      byte[nodes] = own[place]!;
      depth[nodes] = place + 1;
      ends[nodes] = at;
      path.push(nodes++);
    }
    // The tokens of a node come before those below it.
    ends[nodes] = at + 1;
  }
  for (const node of path) skip[node] = nodes;
  return {
    nodes,
    byte: byte.slice(0, nodes),
    depth: depth.slice(0, nodes),
    skip: skip.slice(0, nodes),
    ends: ends.slice(0, nodes + 1),
    tokens,
  };
}
