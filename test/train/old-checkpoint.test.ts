import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { elements } from "../../src/graph/types.ts";
import { openSafetensors, readFloat32 } from "../../src/hf/weights/safetensors.ts";
import { SETTINGS, STEPS, MODEL } from "../golden/checkpoint/make.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { copyFolder, ok, refused, writeTinyModel } from "../support/cli.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const GOLDEN = join(import.meta.dir, "../golden/checkpoint/checkpoints");
const HALF = "step-00000002";
const END = "step-00000004";
const model = writeTinyModel(join(folder, "model"), MODEL);

/** A run folder with a checkpoint of version 3 after half of the steps. */
function interrupted(name: string): string {
  copyFolder(join(GOLDEN, HALF), join(folder, name, "checkpoints", HALF));
  // What says that the folder is a run's.
  writeFileSync(join(folder, name, "train-config.json"), "{}\n");
  return join(folder, name);
}

/** The trained parameters and both moments of a checkpoint, sorted: they are in other places of the two layouts. */
function sorted(path: string, part: string): number[] {
  const source = openSafetensors(join(path, "state.safetensors"));
  const names = [...source.tensors.keys()].filter((name) => name === part || name.startsWith(`${part}/`));
  const values = names.flatMap((name) => [...readFloat32(source, name, source.tensors.get(name)!.shape)]);
  source.close();
  return values.sort((a, b) => a - b);
}

test("a checkpoint of version 3 is read, and the run goes on as it did then: all that is trained is the same to the bit", async () => {
  const run = interrupted("resumed");
  await ok("train", "--model", model, "--output", run, ...SETTINGS, "--steps", String(STEPS), "--resume");
  const written = join(run, "checkpoints", END);
  expect((JSON.parse(readFileSync(join(written, "state.json"), "utf8")) as { version: number }).version).toBe(4);
  for (const part of ["param", "moment1", "moment2"]) {
    const got = sorted(written, part);
    const expected = sorted(join(GOLDEN, END), part);
    expect(got.length).toBeGreaterThan(1000);
    // The flat arrays are as long as the parameters only where these are multiples of a cache line, as here.
    expect(got).toEqual(expected);
  }
});

test("the tensors of a checkpoint have the parameters' names and shapes", () => {
  const source = openSafetensors(join(folder, "resumed/checkpoints", END, "state.safetensors"));
  const shapes = Object.fromEntries([...source.tensors.values()].map(({ name, shape }) => [name, shape]));
  source.close();
  expect(shapes["param/model.norm.weight"]).toEqual([MODEL.hidden_size]);
  expect(shapes["moment2/model.layers.2.mlp.down_proj.weight"]).toEqual([MODEL.hidden_size, MODEL.intermediate_size]);
  expect(Object.values(shapes).reduce((sum, shape) => sum + elements(shape), 0)).toBe(3 * 1968);
});

test("a run is not resumed with another optimizer", async () => {
  const flags = ["--output", interrupted("other"), ...SETTINGS, "--steps", String(STEPS), "--resume", "--optimizer", "lion"];
  expect(await refused("train", "--model", model, ...flags)).toContain(
    "was written by a run with other settings: it had optimizer adamw; beta2 0.999; epsilon 1e-8, this one has optimizer lion; beta2 0.99. Use the same settings, or another --output",
  );
});
