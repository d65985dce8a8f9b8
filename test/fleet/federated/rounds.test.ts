import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { privacySpent } from "../../../src/fleet/federated/privacy/accountant.ts";
import { openSafetensors, readFloat32 } from "../../../src/hf/weights/safetensors.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { ok, writeTinyModel } from "../../support/cli.ts";
import { slowTest } from "../../support/slow.ts";

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
  const own = (node: string, data: string) => ownSettings(path("sgd-nodes"), node, data, { model, valid: both });
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

/** Settings of few steps without anything that depends on how examples are grouped. */
const plain = {
  ...common,
  optimizer: "sgd",
  momentum: 0,
  learningRate: 0.3,
  schedule: "constant",
  warmup: 0,
  clip: 0,
  packing: false,
};

slowTest(
  "DP-SGD without noise and with a wide clip is SGD on the mean of examples; with noise it tells its epsilon, and no training loss",
  async () => {
    const words = ["king", "house", "water", "tree"];
    const data = examples("private", words);
    const valid = examples("private-valid", ["king", "tree"]);
    const train = async (name: string, more: object) => {
      const federation = await openFederation({
        ...plain,
        freezeA: true,
        gradientAccumulation: words.length,
        rounds: 2,
        localSteps: 2,
        nodes: 1,
        encoding: "f32",
        output: path(name),
        ...more,
      });
      const [events] = await Promise.all([
        joinLocally(federation, "box", ownSettings(path(`${name}-nodes`), "box", data, { model, valid })),
        federation.lead.done,
      ]);
      federation.kill();
      const round = federation.events.findLast((event) => event.type === "round")!;
      return { adapter: tensors(path(name, "adapter_model.safetensors")), events, node: round.nodes[0]! };
    };
    const usual = await train("usual", {});
    const still = await train("still", { privacyClip: 1e6, privacyNoise: 0 });
    const apart = (one: Map<string, Float32Array>, other: Map<string, Float32Array>) =>
      Math.max(...[...one].flatMap(([name, values]) => [...values].map((value, i) => Math.abs(value - other.get(name)![i]!))));
    expect(apart(usual.adapter, still.adapter)).toBeLessThan(1e-6);
    expect(usual.node).toMatchObject({ examples: 4, epsilon: null });
    expect(usual.node.loss).toBeGreaterThan(0);
    // Without noise nothing is private.
    expect(still.node).toMatchObject({ loss: null, tokens: null, epsilon: null });
    const noisy = await train("noisy", { privacyClip: 0.1, privacyNoise: 2, privacyDelta: 1e-3, gradientAccumulation: 2 });
    const { epsilon } = privacySpent([{ rate: 0.5, noise: 2, steps: 4 }], 1e-3);
    expect(noisy.node).toMatchObject({ loss: null, tokens: null, epsilon });
    expect(noisy.events.at(-1)).toMatchObject({ type: "federated", epsilon });
    expect(apart(usual.adapter, noisy.adapter)).toBeGreaterThan(1e-4);
  },
);

slowTest(
  "whole LoRA: products are averaged in the adapters' rank, by int8 codes; all have the same adapter, which has learned from both",
  async () => {
    const [left, right] = [examples("one", ["king", "house"]), examples("two", ["water", "tree"])];
    const valid = examples("all", ["king", "water"]);
    const federation = await openFederation({
      ...common,
      learningRate: 2e-2,
      rounds: 3,
      localSteps: 4,
      output: path("products"),
    });
    const own = (node: string, data: string) => ownSettings(path("products-nodes"), node, data, { model, valid });
    await Promise.all([
      joinLocally(federation, "left", own("left", left)),
      joinLocally(federation, "right", own("right", right)),
      federation.lead.done,
    ]);
    federation.kill();
    const all = federation.events.filter((event) => event.type === "round");
    const last = federation.events.at(-1) as Extract<(typeof federation.events)[0], { type: "federated" }>;
    expect(last.heldOut!).toBeLessThan(all[0]!.heldOut! - 0.05);
    for (const { lost, nodes, change } of all) {
      expect(lost).toBeGreaterThan(0);
      expect(lost).toBeLessThan(0.6);
      expect(nodes.map(({ bytes }) => bytes)).toEqual([change, change]);
    }
    const files = ["products", join("products-nodes", "left"), join("products-nodes", "right")].map((name) =>
      readFileSync(path(name, "adapter_model.safetensors")),
    );
    expect(files.every((file) => file.equals(files[0]!))).toBe(true);
    const lossOf = async (adapter: string) =>
      (
        JSON.parse(await ok("eval", "--model", model, "--adapter", adapter, "--data", valid, "--json", "--threads", "1")) as {
          loss: number;
        }
      ).loss;
    expect(Math.abs((await lossOf(path("products"))) - last.heldOut!)).toBeLessThan(1e-4);
  },
);

test("another base model, other settings in the same folder, and methods without a mean are refused", async () => {
  const settings = { ...plain, rounds: 1, output: path("refused") };
  const federation = await openFederation(settings);
  federation.kill();
  const message = async (more: object) => {
    try {
      await openFederation({ ...settings, ...more });
    } catch (error) {
      return (error as Error).message;
    }
    return "accepted";
  };
  expect(await message({ rank: 8 })).toContain("holds a federation with other settings: rank was 4, and is 8");
  expect(await message({ method: "full", rank: undefined, output: path("r1") })).toContain("a federation trains adapters");
  expect(await message({ method: "dora", output: path("r2") })).toContain("choose --method lora or ia3");
  expect(await message({ outerMomentum: 0.9, output: path("r3") })).toContain(
    "--outer-momentum needs updates of the same parameters",
  );
  expect(await message({ privacyNoise: 1, output: path("r4") })).toContain("--privacy-noise needs --privacy-clip");
  expect(await message({ output: folder })).toContain("holds no federation");
  await federation.start();
  const other = writeTinyModel(path("other"), { num_hidden_layers: 3 });
  const own = ownSettings(path("refused-nodes"), "box", examples("refused", ["king"]), { model: other });
  // Nobody is told where the coordinator's files are.
  expect(federation.lead.federation.model).toMatchObject({ name: "model", hub: null });
  await expect(joinLocally(federation, "box", { ...own, model: undefined } as never)).rejects.toThrow("--model: it is missing");
  await expect(joinLocally(federation, "box", own)).rejects.toThrow("is another base model than the coordinator's");
  federation.kill();
});
