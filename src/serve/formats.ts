import { tokenBytesOf } from "../data/tokens/token-bytes.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { FreeReasoning } from "../generate/grammar/constraint.ts";
import { type Expression, oneOf, repeat, sequence } from "../generate/grammar/expression.ts";
import { createGrammar, type Grammar } from "../generate/grammar/grammar.ts";
import { ANY_OBJECT } from "../generate/grammar/json-text.ts";
import { expressionOf, SchemaError } from "../generate/grammar/schema.ts";
import { createVocabulary, type Vocabulary } from "../generate/grammar/vocabulary.ts";
import { reasoningMarks, type ReasoningPlace } from "../generate/reasoning.ts";
import type { Format } from "./api/formats.ts";
import { ApiError, refusing } from "./http/errors.ts";
import { callsOf } from "./tool-calls.ts";

/** A grammar that an answer is kept to. */
export interface AnswerForm {
  readonly grammar: Grammar;
  readonly reasoning: FreeReasoning | null;
  /** The field of the request that asks for it. */
  readonly param: string;
}

/** Grammars that are kept for a vocabulary: a schema is nearly always asked for again. */
const MOST_GRAMMARS = 8;

interface Known {
  readonly vocabulary: Vocabulary;
  /** By schema as text; the one that was used longest ago is first. */
  readonly grammars: Map<string, Grammar>;
}

/** By the contents of `tokenizer.json`, which the adapters of a model share. */
const known = new WeakMap<object, Known>();

/** Makes what keeps answers to a format. @throws {ApiError} a tokenizer or a schema that does not allow it */
export function formOf(tokenizer: Tokenizer, format: Format, reasoning: ReasoningPlace): AnswerForm {
  const { param } = format;
  const { vocabulary, grammars } = knownOf(tokenizer, param);
  const free = freeReasoning(tokenizer, reasoning, param);
  const lead = free === null ? BLANK : BEHIND_REASONING;
  const key = JSON.stringify([format, free !== null]);
  const make = () => createGrammar(sequence(lead, expressionFor(format)), vocabulary);
  const grammar = grammars.get(key) ?? refusing(param, "invalid_value", make);
  grammars.delete(key);
  grammars.set(key, grammar);
  for (const oldest of grammars.keys()) {
    if (grammars.size <= MOST_GRAMMARS) break;
    grammars.delete(oldest);
  }
  return { grammar, reasoning: free, param };
}

/** SentencePiece begins texts with a blank, which is none of them. */
const BLANK = repeat(oneOf(" "), 0, 1);
/** White space that models write behind their reasoning. */
const BEHIND_REASONING = repeat(oneOf(" \n"), 0, 2);

function expressionFor(format: Format): Expression {
  if (format.kind === "json") return format.schema === null ? ANY_OBJECT : ofSchema(format.schema, format.path);
  const calls = format.tools.map(({ name, parameters, path }) => ({
    name,
    parameters: parameters === undefined ? ANY_OBJECT : ofSchema(parameters, path),
  }));
  return callsOf(calls, format.most);
}

function ofSchema(schema: unknown, path: string): Expression {
  try {
    return expressionOf(schema, path);
  } catch (error) {
    if (!(error instanceof SchemaError)) throw error;
    throw new ApiError(400, error.message, { param: error.path, code: "invalid_value" });
  }
}

function knownOf(tokenizer: Tokenizer, param: string): Known {
  let found = known.get(tokenizer.json);
  if (!found) {
    const bytes = tokenBytesOf(tokenizer);
    const vocabulary = bytes === null ? null : createVocabulary(bytes, new Set(tokenizer.specialTokens.values()));
    if (vocabulary?.hasBytes !== true) {
      const message = `${param}: the model's tokenizer has no token for each byte, so that answers cannot be kept to a form`;
      throw new ApiError(400, message, { param, code: "unsupported" });
    }
    known.set(tokenizer.json, (found = { vocabulary, grammars: new Map() }));
  }
  return found;
}

function freeReasoning(tokenizer: Tokenizer, reasoning: ReasoningPlace, param: string): FreeReasoning | null {
  const { open, close } = reasoningMarks(tokenizer);
  if (reasoning === "open") {
    if (close !== null) return { open: null, close };
    const message = `${param}: the prompt begins the model's reasoning, whose end is no token of its own, so that the answer cannot be kept to a form`;
    throw new ApiError(400, message, { param, code: "unsupported" });
  }
  return reasoning === "none" || open === null || close === null ? null : { open, close };
}
