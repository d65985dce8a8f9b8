import { expect } from "bun:test";
import { copyFileSync, cpSync } from "node:fs";
import { join } from "node:path";
import { writeRandomModel } from "../../recipes/base/init.ts";

export const root = join(import.meta.dir, "../..");

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in a process of its own, as a user does. */
export async function remat(args: readonly string[], cwd = root, env: Record<string, string> = {}): Promise<CliResult> {
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...args], {
    cwd,
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  const [stdout, stderr, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, stdout, stderr };
}

/** Returns what a verb that succeeds prints. */
export async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await remat(args);
  expect(`${code} ${stderr}`).toStartWith("0 ");
  return stdout;
}

/** Returns what a verb says that refuses its arguments: one message, no stack trace. */
export async function refused(...args: string[]): Promise<string> {
  const { code, stderr } = await remat(args);
  expect(code).toBe(2);
  expect(stderr).toStartWith("remat: ");
  expect(stderr).not.toContain("    at ");
  return stderr;
}

export const TINY_MODEL = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  vocab_size: 2048,
  hidden_size: 32,
  intermediate_size: 48,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 8,
  hidden_act: "silu",
  max_position_embeddings: 256,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  eos_token_id: 2,
  bos_token_id: null,
  torch_dtype: "float32",
};

/** A model folder with random weights and the bundled tokenizer. */
export function writeTinyModel(folder: string, overrides: Readonly<Record<string, unknown>> = {}): string {
  writeRandomModel(folder, { ...TINY_MODEL, ...overrides }, {}, 1);
  for (const file of ["tokenizer.json", "tokenizer_config.json"])
    copyFileSync(join(root, "recipes/base/model", file), join(folder, file));
  return folder;
}

export function copyFolder(from: string, to: string): string {
  cpSync(from, to, { recursive: true });
  return to;
}
