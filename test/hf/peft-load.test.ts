import { expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { exportTrained } from "../../src/train/run/export/export.ts";
import { readTensors, relativeError } from "../support/golden.ts";
import { adaptedEngine, peftFixture, type Written, WRITTEN } from "../support/peft.ts";
import { filesIn, temporaryFolder } from "./temp.ts";

setDefaultTimeout(120_000);

const root = temporaryFolder();

test.each(Object.keys(WRITTEN) as Written[])(
  "an adapter that we write for %s loads in PEFT, and gives the same logits there within 1e-5",
  async (name) => {
    const folder = join(root, name);
    const { engine, config, batch } = await adaptedEngine(name);
    exportTrained(folder, engine, config);
    const logits = engine.logits(batch, Int32Array.from(batch.ids.keys()));
    engine.executor.close();

    // The files are those that PEFT was given.
    const given = join(peftFixture(name), "adapter");
    expect(filesIn(folder)).toEqual(filesIn(given));
    for (const file of filesIn(given)) expect(readFileSync(join(folder, file))).toEqual(readFileSync(join(given, file)));
    expect(relativeError(logits, readTensors(join(peftFixture(name), "logits.safetensors")).get("logits")!)).toBeLessThan(1e-5);
  },
);
