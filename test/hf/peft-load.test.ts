import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { exportTrained } from "../../src/train/run/export.ts";
import { modelFolder, readTensors, relativeError } from "../support/golden.ts";
import { adaptedEngine, PEFT_FAMILIES, peftFixture } from "../support/peft.ts";
import { filesIn, temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

const root = temporaryFolder();

test.each(PEFT_FAMILIES)(
  "an adapter that we write for %s loads in PEFT, and gives the same logits there within 1e-5",
  async (family) => {
    const folder = join(root, family);
    const { engine, config, batch } = await adaptedEngine(family);
    exportTrained(folder, engine, config, modelFolder(family));
    const logits = engine.logits(batch, Int32Array.from(batch.ids.keys()));
    engine.executor.close();

    // The files are those that PEFT was given.
    const given = join(peftFixture(family), "adapter");
    expect(filesIn(folder)).toEqual(filesIn(given));
    for (const file of filesIn(given)) expect(readFileSync(join(folder, file))).toEqual(readFileSync(join(given, file)));
    expect(relativeError(logits, readTensors(join(peftFixture(family), "logits.safetensors")).get("logits")!)).toBeLessThan(1e-5);
  },
);
