import { mkdirSync } from "node:fs";
import { join } from "node:path";
import OpenAI, { toFile } from "openai";
import { serve, type ServeCallOptions, type ServeOptions } from "../../src/index.ts";
import type { RunningServer } from "../../src/library/serve.ts";
import { writeTinyModel } from "./cli.ts";

/** The name of the base model that a box serves. */
export const BASE = "SmolLM2-135M";

/** A tiny model in a folder that is called as its base model. */
export function writeBase(folder: string, name = BASE): string {
  const model = join(folder, name);
  mkdirSync(model, { recursive: true });
  return writeTinyModel(model, { num_hidden_layers: 2, hidden_size: 16, head_dim: 4, intermediate_size: 16 });
}

const chat = (word: string) =>
  JSON.stringify({
    messages: [
      { role: "user", content: `Define ${word}.` },
      { role: "assistant", content: `A thing called ${word}.` },
    ],
  });

/** Conversations, one for each word. */
export const chats = (words: readonly string[] = ["king", "house", "water", "tree", "gold", "fish"]): string =>
  words.map((word) => `${chat(word)}\n`).join("");

/** Settings of a job that takes a second. */
export const QUICK = { sequence_length: 32, threads: 1, sample: false, packing: false };

export interface Box {
  readonly server: RunningServer;
  readonly client: OpenAI;
  /** A request that OpenAI's client has no function for. */
  ask(path: string, init?: RequestInit): Promise<Response>;
  upload(text: string, name?: string): Promise<string>;
  /** Creates a job; the fields that OpenAI's client has no types for are passed on by it. */
  create(fields: object): Promise<OpenAI.FineTuning.FineTuningJob>;
  /** Resolves when the job has ended, or is as wanted. */
  until(id: string, isWanted?: (job: OpenAI.FineTuning.FineTuningJob) => boolean): Promise<OpenAI.FineTuning.FineTuningJob>;
}

/** A server with a home, in this process, and OpenAI's client of it. */
export async function openBox(options: ServeOptions, onRequest?: ServeCallOptions["onRequest"]): Promise<Box> {
  const defaults = { port: 0, threads: 1, temperature: 0, maxNewTokens: 8, maxTokens: 128 };
  const server = await serve({ ...defaults, ...options }, { onRequest });
  return boxAt(server, options.apiKey ?? "none");
}

export function boxAt(server: RunningServer, apiKey = "none"): Box {
  const client = new OpenAI({ baseURL: server.url, apiKey, maxRetries: 0 });
  return {
    server,
    client,
    ask: (path, init = {}) => fetch(new URL(path, server.url), init),
    async upload(text, name = "data.jsonl") {
      const file = await client.files.create({ file: await toFile(Buffer.from(text), name), purpose: "fine-tune" });
      return file.id;
    },
    create: (fields) => client.fineTuning.jobs.create({ model: BASE, ...fields } as OpenAI.FineTuning.JobCreateParams),
    async until(id, isWanted = ({ finished_at }) => finished_at !== null) {
      for (;;) {
        const job = await client.fineTuning.jobs.retrieve(id);
        if (isWanted(job)) return job;
        if (job.finished_at !== null) throw new Error(`the job ended as ${job.status}: ${JSON.stringify(job.error)}`);
        await Bun.sleep(10);
      }
    },
  };
}
