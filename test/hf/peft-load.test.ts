import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { exportTrained } from "../../src/train/export.ts";
import { modelFolder, readTensors, relativeError } from "../support/golden.ts";
import { adaptedEngine, PEFT_FIXTURE } from "../support/peft.ts";
import { filesIn, temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();

test("an adapter that we write loads in PEFT, and gives the same logits there within 1e-5", async () => {
  const { engine, config, batch } = await adaptedEngine();
  exportTrained(folder, engine, config, modelFolder("qwen3"));
  const logits = engine.logits(batch, Int32Array.from(batch.ids.keys()));
  engine.executor.close();

  // The files are those that PEFT was given.
  const given = join(PEFT_FIXTURE, "adapter");
  expect(filesIn(folder)).toEqual(filesIn(given));
  for (const file of filesIn(given)) expect(readFileSync(join(folder, file))).toEqual(readFileSync(join(given, file)));
  expect(relativeError(logits, readTensors(join(PEFT_FIXTURE, "logits.safetensors")).get("logits")!)).toBeLessThan(1e-5);
});
