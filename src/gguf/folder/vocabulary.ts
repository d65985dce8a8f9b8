/** The words of GGUF files about tokens, for writing and reading. */

/** llama.cpp's types of tokens, which are SentencePiece's kinds of pieces. */
export { PIECE as TOKEN_TYPE } from "../../data/tokens/sentencepiece.ts";

/** The tokens that llama.cpp looks up in the vocabulary of a model whose name says Phi-3; it does not load a model that lacks any of them. */
export const PHI3_TOKENS: readonly string[] = ["</s>", "<unk>", "<s>", "<|endoftext|>"];

/** Begins a template that has to be told that there are no tools, which llama.cpp does not tell it. */
export const TOOLS_LINE = "{% set tools = tools or none %}";

/** llama.cpp's names of kinds of vocabularies: byte-level BPE by its merges, and SentencePiece's BPE by the scores of tokens; and WordPiece. */
export const VOCABULARIES = { byteLevel: "gpt2", scored: "llama", wordPiece: "bert" } as const;
