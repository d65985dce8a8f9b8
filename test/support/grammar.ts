import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { tokenBytesOf } from "../../src/data/tokens/token-bytes.ts";
import { loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import { createAutomaton, type State } from "../../src/generate/grammar/automaton.ts";
import { createConstraint } from "../../src/generate/grammar/constraint.ts";
import { type Expression } from "../../src/generate/grammar/expression.ts";
import { createGrammar, type Grammar } from "../../src/generate/grammar/grammar.ts";
import { expressionOf } from "../../src/generate/grammar/schema.ts";
import { createVocabulary } from "../../src/generate/grammar/vocabulary.ts";
import { createSampler, GREEDY } from "../../src/generate/sampler.ts";

export const tokenizer = loadTokenizer(join(import.meta.dir, "../../recipes/base/model"));
export const special = new Set(tokenizer.specialTokens.values());
export const vocabulary = createVocabulary(tokenBytesOf(tokenizer)!, special);
export const stop = new Set([tokenizer.eosId!]);
export const bytesOf = (ids: readonly number[]) => Buffer.concat(ids.map((id) => vocabulary.bytes.of(id)));

/** Tells whether a text is one of an expression's. */
export function reads(expression: Expression, text: string): boolean {
  const { start, step } = createAutomaton(expression);
  let state: State | null = start;
  for (const byte of Buffer.from(text)) if ((state = step(state, byte)) === null) return false;
  return state.isEnd;
}

/** A text of a grammar by a model whose logits are drawn anew for each token. */
export function write(
  grammar: Grammar,
  { seed = 1, limit = 300, temperature = 0.7, spread = 20 },
): { text: string; ended: boolean } {
  const random = createRandom(seed, "model");
  const constraint = createConstraint({ grammar, stop, limit, reasoning: null });
  const sampler = createSampler({ ...GREEDY, temperature, seed }, [], constraint);
  const ids: number[] = [];
  for (let count = 0; count < limit; count++) {
    const logits = Float32Array.from({ length: tokenizer.size }, () => spread * random.uniform());
    const id = sampler(logits, ids);
    if (stop.has(id)) return { text: bytesOf(ids).toString(), ended: true };
    ids.push(id);
  }
  return { text: bytesOf(ids).toString(), ended: false };
}

export const grammarOf = (schema: unknown) => createGrammar(expressionOf(schema, "schema"), vocabulary);
