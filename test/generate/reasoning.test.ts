import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import { createTokenizer, loadTokenizer } from "../../src/data/tokens/tokenizer.ts";
import {
  answerText,
  createReasoningReader,
  endsInReasoning,
  reasoningTokens,
  type Said,
  separateReasoning,
} from "../../src/generate/reasoning.ts";

const CASES: readonly (readonly [answer: string, isOpen: boolean, reasoning: string | null, text: string])[] = [
  ["<think>\nbecause\n</think>\n\nfour", false, "because", "four"],
  ["  \n<think>a</think>b", false, "a", "b"],
  ["<think>\n\n</think>\n\nfour", false, null, "four"],
  ["four", false, null, "four"],
  ["<thin and <think>no</think>", false, null, "<thin and <think>no</think>"],
  ["say <think>no</think>", false, null, "say <think>no</think>"],
  ["", false, null, ""],
  ["<th", false, null, "<th"],
  ["because\n</think>\n\nfour", true, "because", "four"],
  ["\n  two </thin and\n\n two\n</think>  four\n", true, "two </thin and\n\n two", "four\n"],
  ["it never ends \n", true, "it never ends", ""],
  ["a</think>b</think>c", true, "a", "b</think>c"],
  ["</think>", true, null, ""],
];

describe("reasoning before an answer is separated, whatever the pieces are", () => {
  test.each(CASES)("%j, begun: %p", (answer, isOpen, reasoning, text) => {
    expect(separateReasoning(answer, isOpen)).toEqual({ reasoning, text });
    for (let size = 1; size <= answer.length; size++) {
      const reader = createReasoningReader(isOpen);
      const said: Said[] = [];
      for (let at = 0; at < answer.length; at += size) said.push(...reader.push(answer.slice(at, at + size)));
      said.push(...reader.end());
      expect(said.map((piece) => ("text" in piece ? piece.text : "")).join("")).toBe(text);
      expect(said.map((piece) => ("reasoning" in piece ? piece.reasoning : "")).join("")).toBe(reasoning ?? "");
      for (const piece of said) expect(Object.values(piece)[0]).not.toBe("");
      // Reasoning comes first.
      const firstText = said.findIndex((piece) => "text" in piece);
      if (firstText >= 0) expect(said.slice(firstText).every((piece) => "text" in piece)).toBe(true);
    }
  });
});

test("a prompt that ends within the reasoning, and marks that are special tokens", () => {
  const plain = loadTokenizer(join(import.meta.dir, "../golden/tokenizers/smollm"));
  const added = [...(plain.json["added_tokens"] as object[])];
  const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special: true };
  for (const [i, content] of ["<think>", "</think>"].entries()) added.push({ id: plain.size + i, content, ...flags });
  const special = createTokenizer({ ...plain.json, added_tokens: added }, plain.namedTokens);
  for (const tokenizer of [plain, special]) {
    expect(endsInReasoning(tokenizer, tokenizer.encode("x<|im_start|>assistant\n<think>\n"))).toBe(true);
    expect(endsInReasoning(tokenizer, tokenizer.encode("x<think>\n\n</think>\n\n"))).toBe(false);
    const ids = [...tokenizer.encode("<think>\nwhy 😀\n</think>\n\nso<|im_end|>")];
    expect(answerText(tokenizer, ids)).toBe("<think>\nwhy 😀\n</think>\n\nso");
  }
  expect(reasoningTokens(plain).size).toBe(0);
  expect(reasoningTokens(special).size).toBe(2);
});
