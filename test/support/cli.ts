import { expect } from "bun:test";
import { copyFileSync, cpSync } from "node:fs";
import { join } from "node:path";
import { writeRandomModel } from "../../recipes/base/init.ts";
import { runCommandLine } from "../../src/cli/command-line.ts";
import { SLOW } from "./slow.ts";

export const root = join(import.meta.dir, "../..");

export interface CliResult {
  readonly code: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in a process of its own, as a user does. */
export async function rematApart(args: readonly string[], cwd = root, env: Record<string, string> = {}): Promise<CliResult> {
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

/**
 * Runs the command line in this process, which saves the start of another: for what does not depend on a process. The full suite
 * has a process for each.
 */
export const remat: (args: readonly string[]) => Promise<CliResult> = SLOW ? rematApart : rematHere;

/** The run that was asked for last: each waits for the one before it, since all write to the same streams. */
let last: Promise<unknown> = Promise.resolve();

function rematHere(args: readonly string[]): Promise<CliResult> {
  const result = last.then(async () => {
    const streams = [process.stdout, process.stderr].map(catchOutput);
    try {
      const code = await runCommandLine(args);
      const [stdout, stderr] = streams.map(({ text }) => text());
      return { code, stdout: stdout!, stderr: stderr! };
    } finally {
      for (const { release } of streams) release();
    }
  });
  last = result.catch(() => {});
  return result;
}

/** Takes what is written to a stream, which is no terminal meanwhile. */
function catchOutput(stream: NodeJS.WriteStream): { text(): string; release(): void } {
  const { write, isTTY } = stream;
  const chunks: Buffer[] = [];
  stream.isTTY = false;
  stream.write = (chunk: string | Uint8Array, ...rest: unknown[]) => {
    chunks.push(Buffer.from(chunk as string));
    const done = rest.at(-1);
    if (typeof done === "function") done();
    return true;
  };
  return {
    text: () => Buffer.concat(chunks).toString(),
    release: () => void Object.assign(stream, { write, isTTY }),
  };
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
