import { afterEach, expect, setDefaultTimeout, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../../src/base/random.ts";
import { openSafetensors, readFloat32 } from "../../../src/hf/weights/safetensors.ts";
import { lora } from "../../../src/models/adapters/lora.ts";
import type { AdapterTuning } from "../../../src/models/tuning.ts";
import { readTensor } from "../../../src/runtime/resident.ts";
import { trainConfigSchema } from "../../../src/train/config.ts";
import { tuningOf } from "../../../src/train/step/tuning.ts";
import { randomCheckpoint } from "../../../bench/shapes.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { ok, refused, writeTinyModel } from "../../support/cli.ts";
import { build, closeExecutors, gradients, llama } from "../../support/engine.ts";

setDefaultTimeout(120_000);

afterEach(closeExecutors);

const config = llama(2, 32, { tie_word_embeddings: false });
const TOKENS = 20;

const tuning = (changes: object) =>
  tuningOf(
    trainConfigSchema.parse({ model: "m", data: "d", rank: 4, ...changes }),
    config,
    randomCheckpoint(config, "f32"),
  ) as AdapterTuning;

/** The factor that begins random. */
const isFrozen = (name: string) => /lora_(A\.weight|embedding_B)$/.test(name);

test.each([
  ["head and embedding", { targets: ["q_proj", "lm_head", "embed_tokens"], dropout: 0.3 }],
  ["DoRA", { method: "dora" }],
])("with A frozen the other parts have the same gradients, and A has none: %s", async (_, changes) => {
  const make = (freezeA: boolean) => build(config, tuning({ ...changes, freezeA }), { name: "per-segment" }, TOKENS);
  const [all, some] = [await make(false), await make(true)];
  const [whole, part] = [gradients(all, TOKENS), gradients(some, TOKENS)];
  expect(part.losses).toEqual(whole.losses);
  expect([...part.values.keys()]).toEqual([...whole.values.keys()].filter((name) => !isFrozen(name)));
  for (const [name, values] of part.values) {
    expect([name, values.some((value) => value !== 0)]).toEqual([name, true]);
    expect([name, values]).toEqual([name, whole.values.get(name)!]);
  }
  expect(some.plan.fixed.gradients).toBeLessThan(all.plan.fixed.gradients);
  const frozen = some.resident.params.find(({ name }) => isFrozen(name))!;
  const read = ({ executor, resident }: typeof all) => readTensor(executor, resident.param.get(frozen.name)!, frozen.type);
  expect(read(some)).toEqual(read(all));
});

const folder = temporaryFolder();
const path = (...parts: string[]) => join(folder, ...parts);
const words = ["king", "house", "water", "tree"];

test("A stays what the seed drew, in the run's adapter and in its checkpoints; the adapter is an ordinary one, and trained further", async () => {
  const model = writeTinyModel(path("model"));
  const data = path("data.jsonl");
  writeFileSync(
    data,
    words.map((word) => `${JSON.stringify({ prompt: `Define ${word}.`, completion: `n. A ${word}.` })}\n`).join(""),
  );
  const training = ["--data", data, "--learning-rate", "2e-2", "--sequence-length", "64", "--threads", "1", "--no-sample"];
  const train = (run: string, ...flags: string[]) => ok("train", "--output", path(run), ...training, ...flags);
  const steps = ["--steps", "4", "--save-every", "2"];
  await train("frozen", "--model", model, "--freeze-a", ...steps);
  await train("further", "--model", model, "--adapter", path("frozen"), "--freeze-a", ...steps);

  const tensors = (run: string) => {
    const source = openSafetensors(path(run, "adapter_model.safetensors"));
    const read = [...source.tensors].map(([name, { shape }]) => [name, readFloat32(source, name, shape)] as const);
    source.close();
    return new Map(read);
  };
  const [first, second] = [tensors("frozen"), tensors("further")];
  for (const [name, values] of first) {
    if (isFrozen(name)) {
      const shape = [8, values.length / 8];
      expect(values).toEqual(lora.initialise({ suffix: "lora_A.weight", shape }, createRandom(42, name))!);
    }
    expect([name, Buffer.compare(Buffer.from(values.buffer), Buffer.from(second.get(name)!.buffer)) === 0]).toEqual([
      name,
      isFrozen(name),
    ]);
  }
  expect(JSON.parse(readFileSync(path("frozen", "adapter_config.json"), "utf8"))).not.toContainKey("freezeA");

  const lossOf = async (adapter: string) =>
    (
      JSON.parse(await ok("eval", "--data", data, "--json", "--threads", "1", "--model", model, "--adapter", adapter)) as {
        loss: number;
      }
    ).loss;
  const [last] = readdirSync(path("frozen", "checkpoints")).sort().reverse();
  expect(await lossOf(path("frozen", "checkpoints", last!))).toBe(await lossOf(path("frozen")));
  expect(
    await refused("train", "--model", model, ...training, "--output", path("no"), "--method", "ia3", "--freeze-a"),
  ).toContain("--freeze-a is no setting of --method ia3");
});
