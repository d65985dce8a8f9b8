import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { openSafetensors, readFloat32 } from "../../../src/hf/weights/safetensors.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { ok, writeTinyModel } from "../../support/cli.ts";
import { joinLocally, openFederation, ownSettings, writeExamples } from "../../support/federated.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (...parts: string[]) => join(folder, ...parts);
const model = writeTinyModel(path("model"), { num_hidden_layers: 2 });

/** Examples of one length each, so that all micro-batches have as many labels. */
const examples = (name: string, words: readonly string[]) =>
  writeExamples(
    path(`${name}.jsonl`),
    words.map((word) => [`Define ${word}.`, `n. A ${word}.`] as const),
  );

function tensors(file: string): Map<string, Float32Array> {
  const source = openSafetensors(file);
  const read = [...source.tensors].map(([name, { shape }]) => [name, readFloat32(source, name, shape)] as const);
  source.close();
  return new Map(read);
}

const common = { model, sequenceLength: 64, rank: 4, seed: 3, targets: ["q_proj", "down_proj"] };

test("with A frozen, a step of each node and their mean is a step of one run on all data", async () => {
  const [left, right] = [examples("left", ["king"]), examples("right", ["house"])];
  const both = examples("both", ["king", "house"]);
  const settings = {
    ...common,
    optimizer: "sgd",
    learningRate: 0.5,
    momentum: 0,
    schedule: "constant",
    warmup: 0,
    clip: 0,
    packing: false,
    freezeA: true,
    rounds: 4,
    localSteps: 1,
    encoding: "f32",
    output: path("sgd"),
  };
  const federation = await openFederation(settings);
  const own = (node: string, data: string) => ownSettings(path("sgd-nodes"), node, data, { valid: both });
  const [first] = await Promise.all([
    joinLocally(federation, "left", own("left", left)),
    joinLocally(federation, "right", own("right", right)),
    federation.lead.done,
  ]);
  federation.kill();
  const file = path("sgd.json");
  const config = {
    ...common,
    data: both,
    valid: both,
    optimizer: "sgd",
    learningRate: 0.5,
    momentum: 0,
    schedule: "constant",
    warmup: 0,
    clip: 0,
    packing: false,
    freezeA: true,
    steps: 4,
    gradientAccumulation: 2,
    sample: false,
    threads: 1,
    output: path("alone"),
  };
  await Bun.write(file, JSON.stringify(config));
  await ok("train", file);
  const [federated, alone] = [
    tensors(path("sgd", "adapter_model.safetensors")),
    tensors(path("alone", "adapter_model.safetensors")),
  ];
  expect([...federated.keys()].sort()).toEqual([...alone.keys()].sort());
  for (const [name, values] of alone) {
    const most = Math.max(...values.map(Math.abs));
    const apart = Math.max(...values.map((value, i) => Math.abs(value - federated.get(name)![i]!)));
    expect([name, most > 0, apart <= 2e-6 * most]).toEqual([name, true, true]);
  }
  expect(JSON.parse(readFileSync(path("sgd", "adapter_config.json"), "utf8"))).toMatchObject({ r: 4, peft_type: "LORA" });
  const [before, after] = [federation.events.find(({ type }) => type === "round"), federation.events.at(-1)!];
  expect(after).toMatchObject({ type: "federated", rounds: 4 });
  expect((after as { heldOut: number }).heldOut).toBeLessThan((before as { heldOut: number }).heldOut);
  expect(first.map(({ type }) => type)).toContain("sent");
});
