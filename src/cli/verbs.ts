import type { VerbTable } from "./flags/verb.ts";
import { CHILD as EXAMINE_DEVICE } from "../doctor/apart.ts";
import { RELAY } from "../fleet/names.ts";
import { CHILD as GRADIENTS } from "../train/nodes/local-worker.ts";
import { CHILD as TRAIN } from "../train/apart/train-apart.ts";

export const VERBS: VerbTable = {
  train: { summary: "fine-tune a model", load: () => import("./verbs/train.ts") },
  report: { summary: "a run's report.html made anew, or its losses as a picture", load: () => import("./verbs/report.ts") },
  step: { summary: "one forward and backward without an update: loss and gradients", load: () => import("./verbs/step.ts") },
  plan: { summary: "the best schedule within a memory limit", load: () => import("./verbs/plan/plan.ts") },
  chat: { summary: "talk with a model or an adapter", load: () => import("./verbs/chat.ts") },
  generate: { summary: "answer the prompts of a file", load: () => import("./verbs/generate.ts") },
  serve: { summary: "serve a model by OpenAI's API over HTTP", load: () => import("./verbs/serve.ts") },
  node: { summary: "run jobs of a fleet on this machine", load: () => import("./verbs/node.ts") },
  keys: { summary: "create, list and delete keys of a server with a home", load: () => import("./verbs/keys.ts") },
  federate: {
    summary: "train on the data of several machines, which never leave them",
    load: () => import("./verbs/fleet/federate.ts"),
  },
  eval: { summary: "loss, perplexity and token accuracy on examples", load: () => import("./verbs/score/eval.ts") },
  classify: { summary: "classes of texts, by a trained classifier", load: () => import("./verbs/score/classify.ts") },
  embed: { summary: "embeddings of texts", load: () => import("./verbs/score/embed.ts") },
  rerank: { summary: "texts by how well they answer a query", load: () => import("./verbs/score/rerank.ts") },
  merge: { summary: "add an adapter to its base model's weights", load: () => import("./verbs/merge.ts") },
  export: { summary: "write files for llama.cpp and Ollama (GGUF), or ONNX Runtime", load: () => import("./verbs/export.ts") },
  data: { summary: "check examples, or show how they are tokenized and masked", load: () => import("./verbs/data.ts") },
  doctor: { summary: "what works on this machine, how fast, and what is missing", load: () => import("./verbs/doctor.ts") },
  recipes: { summary: "list the bundled training configurations, or copy one", load: () => import("./verbs/recipes.ts") },
  completion: { summary: "completion for bash, zsh or fish", load: () => import("./verbs/completion.ts") },
};

/** The work of this program's own processes, by their first argument; no verbs for users. */
export const CHILDREN: Readonly<Record<string, () => Promise<{ run(args: readonly string[]): Promise<number> }>>> = {
  [EXAMINE_DEVICE]: () => import("../doctor/examine-device.ts"),
  [RELAY]: () => import("../fleet/parallel/relay.ts"),
  [GRADIENTS]: () => import("../train/apart/gradient-child.ts"),
  [TRAIN]: () => import("../train/apart/train-child.ts"),
};
