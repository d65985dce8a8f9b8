import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { shuffle, createRandom } from "../src/base/random.ts";
import { bytesEachWay } from "../src/fleet/federated/node.ts";
import { evaluate } from "../src/library/evaluate.ts";
import { train } from "../src/library/train.ts";
import { firstModel } from "../src/fleet/federated/first-model.ts";
import { ENCODINGS } from "../src/base/codes.ts";
import { trainConfigSchema } from "../src/train/config.ts";
import { randomCheckpoint, shapeConfig } from "./shapes.ts";
import { joinLocally, openFederation } from "../test/support/federated.ts";

/**
 * Eight nodes with texts of unlike kinds and tasks against one run on all of them, with equal tokens, and each node by itself: held-out losses by labelled tokens
 * over the held-out examples of all nodes. Then bytes of a round for SmolLM2-135M.
 *
 *     bun bench/federated.ts --rounds 8 --local-steps 5 --momentum 0.5
 */
const { values } = parseArgs({
  options: {
    rounds: { type: "string", default: "8" },
    "local-steps": { type: "string", default: "5" },
    "learning-rate": { type: "string", default: "2e-3" },
    encoding: { type: "string", default: "int8" },
    momentum: { type: "string", default: "0.5" },
    "outer-rate": { type: "string", default: "1" },
    "whole-lora": { type: "boolean", default: false },
    alone: { type: "boolean", default: false },
    seed: { type: "string", default: "1" },
  },
});

const RECIPES = join(import.meta.dir, "../recipes");
/** Examples of a node: as many for training as there are of the rarest kind, and held out. */
const TRAINED = 90;
const HELD_OUT = 15;

interface Example {
  readonly prompt: string;
  readonly completion: string;
}

const lines = <T>(file: string): T[] =>
  readFileSync(join(RECIPES, file), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as T);

interface Chat {
  readonly messages: readonly { readonly content: string }[];
}

/** Examples by node: nouns of three parts of the alphabet, adjectives and verbs, two tasks on verses, names of parts of speech, other questions. */
function kinds(): Example[][] {
  const devil = lines<Chat>("devils-dictionary/train.jsonl").map(({ messages }) => ({
    prompt: messages[0]!.content,
    completion: messages[1]!.content,
  }));
  const nouns = devil.filter(({ completion }) => completion.startsWith("n."));
  const letter = ({ prompt }: Example) => prompt.replace(/^Define (?:the )?/, "")[0]!.toLowerCase();
  const between = (from: string, to: string) => nouns.filter((example) => letter(example) >= from && letter(example) <= to);
  const verses = lines<{ readonly anchor: string; readonly positive: string }>("verses/train.jsonl");
  const half = Math.floor(verses.length / 2);
  const speech = lines<{ readonly text: string; readonly label: string }>("parts-of-speech/train.jsonl");
  const asked = lines<{ readonly prompt: Chat["messages"]; readonly chosen: Chat["messages"] }>("definitions/train.jsonl");
  return [
    between("a", "e"),
    between("f", "m"),
    between("n", "z"),
    devil.filter(({ completion }) => !completion.startsWith("n.")),
    verses.slice(0, half).map(({ anchor, positive }) => ({ prompt: `Go on: ${anchor}`, completion: positive })),
    verses.slice(half).map(({ anchor, positive }) => ({ prompt: `What is before: ${positive}`, completion: anchor })),
    speech.map(({ text, label }) => ({ prompt: `Which part of speech is it? ${text}`, completion: label })),
    asked.map(({ prompt, chosen }) => ({ prompt: prompt[0]!.content, completion: chosen[0]!.content })),
  ];
}

const folder = mkdtempSync(join(tmpdir(), "remat-federated-"));
const path = (...parts: string[]) => join(folder, ...parts);
const write = (name: string, examples: readonly Example[]) => {
  writeFileSync(path(name), examples.map((example) => `${JSON.stringify(example)}\n`).join(""));
  return path(name);
};
const seed = Number(values.seed);
const nodes = kinds().map((examples, i) => {
  const list = shuffle(examples.slice(), createRandom(seed, `node ${i}`));
  const [held, trained] = [list.slice(0, HELD_OUT), list.slice(HELD_OUT, HELD_OUT + TRAINED)];
  return { name: `n${i}`, train: write(`train-${i}.jsonl`, trained), valid: write(`valid-${i}.jsonl`, held), trained, held };
});
const all = {
  train: write(
    "train.jsonl",
    nodes.flatMap(({ trained }) => trained),
  ),
  valid: write(
    "valid.jsonl",
    nodes.flatMap(({ held }) => held),
  ),
};

const model = join(RECIPES, "base/model");
const [rounds, localSteps] = [Number(values.rounds), Number(values["local-steps"])];
const common = {
  method: "lora",
  rank: 8,
  freezeA: !values["whole-lora"],
  sequenceLength: 128,
  truncate: true,
  batchSize: 2,
  learningRate: Number(values["learning-rate"]),
  seed,
} as const;

async function lossOf(adapter: string | undefined, data: string): Promise<number> {
  return (await evaluate({ model, adapter, data, sequenceLength: 128, truncate: true, threads: 2 })).loss;
}

const begin = performance.now();
const federation = await openFederation({
  ...common,
  model,
  rounds,
  localSteps,
  nodes: nodes.length,
  encoding: values.encoding,
  outerMomentum: Number(values.momentum),
  outerLearningRate: Number(values["outer-rate"]),
  output: path("federation"),
});
await Promise.all([
  ...nodes.map((node) =>
    joinLocally(federation, node.name, { model, data: node.train, valid: node.valid, output: path(node.name), threads: 1 }),
  ),
  federation.lead.done,
]);
const { traffic, events } = federation;
const { parameters } = federation.lead;
federation.kill();
const seconds = (performance.now() - begin) / 1000;
for (const event of events) {
  if (event.type !== "round") continue;
  const lost = event.lost === null ? "" : `, ${(100 * event.lost).toFixed(1)} % of the mean product lost`;
  console.log(`round ${event.round}: held-out loss ${event.heldOut!.toFixed(4)} before${lost}`);
}
const federated = await lossOf(path("federation"), all.valid);

const { train: data, valid } = all;
const together = {
  ...common,
  model,
  data,
  valid,
  steps: rounds * localSteps,
  gradientAccumulation: nodes.length,
  sample: false,
  threads: 2,
  output: path("together"),
};
await train(together);
const reference = await lossOf(path("together"), all.valid);

console.log(`base model ${(await lossOf(undefined, all.valid)).toFixed(4)}`);
console.log(
  `${nodes.length} nodes, ${rounds} rounds of ${localSteps} steps: held-out loss ${federated.toFixed(4)} (${seconds.toFixed(0)} s)`,
);
console.log(
  `one run on all data, equal tokens: ${reference.toFixed(4)}; the federation's is ${(100 * (federated / reference - 1)).toFixed(2)} % above`,
);
if (values.alone) {
  const alone: number[] = [];
  for (const node of nodes) {
    await train({
      ...common,
      model,
      data: node.train,
      valid: node.valid,
      steps: rounds * localSteps,
      sample: false,
      threads: 2,
      output: path(`alone-${node.name}`),
    });
    alone.push(await lossOf(path(`alone-${node.name}`), all.valid));
  }
  console.log(`each node by itself, on the held-out examples of all: ${alone.map((loss) => loss.toFixed(3)).join(", ")}`);
}
const way = (bytes: number) => Math.round(bytes / rounds / nodes.length);
console.log(`${parameters} values; bytes a round and node, all messages: ${way(traffic.sent)} up, ${way(traffic.received)} down`);
for (const freezeA of [true, false]) {
  const shape = shapeConfig("smollm2-135m");
  const config = trainConfigSchema.parse({ model: "-", data: "-", rank: 8, freezeA });
  const { layout } = firstModel(config, { config: shape, source: randomCheckpoint(shape, "bf16") });
  const bytes = ENCODINGS.map((encoding) => `${bytesEachWay(layout.size, { encoding })} in ${encoding}`).join(", ");
  console.log(
    `SmolLM2-135M, rank 8, all linear layers, A ${freezeA ? "frozen" : "trained"}: ${layout.size} values, bytes each way: ${bytes}`,
  );
}
rmSync(folder, { recursive: true, force: true });
