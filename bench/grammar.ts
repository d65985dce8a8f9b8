/**
 * What answers of a form cost beside the model: microseconds of processor time a token for the tokens that may come, and for the choice of the
 * likeliest among them, with a vocabulary of 150,000: the bundled model's, and pairs of its tokens.
 *
 *     bun bench/grammar.ts [tokens]
 *
 * Logits are drawn anew for each token, which leads through more states of a form than a model's would.
 */
import { join } from "node:path";
import { createRandom } from "../src/base/random.ts";
import { tokenBytesOf } from "../src/data/tokens/token-bytes.ts";
import { loadTokenizer } from "../src/data/tokens/tokenizer.ts";
import { createConstraint } from "../src/generate/grammar/constraint.ts";
import { type Expression, sequence } from "../src/generate/grammar/expression.ts";
import { createGrammar } from "../src/generate/grammar/grammar.ts";
import { ANY_OBJECT, SPACE } from "../src/generate/grammar/json-text.ts";
import { expressionOf } from "../src/generate/grammar/schema.ts";
import { createVocabulary } from "../src/generate/grammar/vocabulary.ts";
import { argmax } from "../src/generate/sampler.ts";

const [limit = 400] = process.argv.slice(2).map(Number);
const SIZE = 150_000;
const END = 0;
const RUNS = 6;

const SCHEMA = {
  type: "object",
  properties: {
    name: { type: "string" },
    age: { type: "integer", minimum: 0, maximum: 130 },
    tags: { type: "array", items: { type: "string", maxLength: 40 } },
    kind: { enum: ["red", "green", "blue"] },
    child: { anyOf: [{ $ref: "#" }, { type: "null" }] },
  },
  required: ["name", "age", "tags", "kind", "child"],
  additionalProperties: false,
};

const microseconds = (): number => {
  const { user, system } = process.cpuUsage();
  return user + system;
};

const own = tokenBytesOf(loadTokenizer(join(import.meta.dir, "../recipes/base/model")))!;
const random = createRandom(1, "bench of grammars");
const any = () => own.of(random.below(own.size));
const tokens = Array.from({ length: SIZE }, (_, id) => (id < own.size ? own.of(id) : Buffer.concat([any(), any()])));
const begin = microseconds();
const vocabulary = createVocabulary({ size: SIZE, of: (id) => tokens[id]! }, new Set([END]));
console.log(`the vocabulary, once for each model: ${((microseconds() - begin) / 1000).toFixed(0)} ms`);

const drawn = Float32Array.from({ length: 2 * SIZE }, () => random.normal());
const forms: Readonly<Record<string, Expression>> = { "any object": ANY_OBJECT, "a schema": expressionOf(SCHEMA, "schema") };
for (const [name, expression] of Object.entries(forms)) {
  const grammar = createGrammar(sequence(SPACE, expression), vocabulary);
  for (let run = 0; run < RUNS; run++) {
    const constraint = createConstraint({ grammar, stop: new Set([END]), limit, reasoning: null });
    const ids: number[] = [];
    let [allowing, choosing] = [0, 0];
    for (let id = -1; id !== END && constraint.end === null;) {
      const from = (7919 * (ids.length + limit * run)) % SIZE;
      const logits = drawn.slice(from, from + SIZE);
      const before = microseconds();
      constraint.allow(logits, ids);
      const between = microseconds();
      do id = argmax(logits);
      while (!constraint.take(id, logits));
      allowing += between - before;
      choosing += microseconds() - between;
      if (id !== END) ids.push(id);
    }
    const [allow, choose] = [allowing, choosing].map((sum) => (sum / ids.length).toFixed(0));
    console.log(
      `${name}, answer ${run + 1}: ${ids.length} tokens; allowed ${allow} us, chosen ${choose} us a token; ${grammar.automaton.states} states`,
    );
  }
}
