import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseSize } from "../../src/base/bytes.ts";
import { createMemoryControl, type MemoryEvent, train, UserError } from "../../src/index.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { writeTinyModel } from "../support/cli.ts";
import { limitHere } from "../support/process-tree.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const model = join(folder, "model");
const chat = (word: string) =>
  `${JSON.stringify({
    messages: [
      { role: "user", content: `Define ${word}.` },
      { role: "assistant", content: `A thing called ${word} `.repeat(12) },
    ],
  })}\n`;

beforeAll(() => {
  mkdirSync(model, { recursive: true });
  writeTinyModel(model, { num_hidden_layers: 6, hidden_size: 32, head_dim: 8, intermediate_size: 64 });
  writeFileSync(
    join(folder, "chats.jsonl"),
    ["king", "house", "water", "tree", "gold", "sea", "road", "bird"].map(chat).join(""),
  );
});

const config = (output: string) => ({
  model,
  data: join(folder, "chats.jsonl"),
  output: join(folder, output),
  sequenceLength: 128,
  batchSize: 4,
  gradientAccumulation: 2,
  dropout: 0.1,
  steps: 6,
  threads: 1,
  sample: false,
  memory: "1GiB",
});

/** Everything of a run that must be the same to the bit. */
const bitsOf = (output: string) => [
  readFileSync(join(folder, output, "adapter_model.safetensors")).toString("base64"),
  ...readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as Record<string, unknown>)
    .map(({ type, step, loss, gradientNorm }) => JSON.stringify([type, step, loss, gradientNorm])),
];

describe("the limit of memory of a run that is under way", () => {
  // The process of its own does what this one does.
  slowTest.each([true, false])(
    "goes from plenty to the least and back, is told, and changes no bit (isolate: %p)",
    async (isolate) => {
      const output = `resized-${isolate}`;
      await train({ ...config("whole"), overwrite: true }, { isolate: true });
      const control = createMemoryControl();
      const told: MemoryEvent[] = [];
      const memory = isolate ? "1GiB" : limitHere(2 ** 30);
      const most = (parseSize(memory) as { bytes: number }).bytes;
      // Asked for before the run begins; of several the newest counts.
      const answers = [control.resize(most / 2), control.resize(most)];
      let before = 0;
      await train(
        { ...config(output), memory },
        {
          isolate,
          memoryControl: control,
          sink(event) {
            if (event.type === "start") before = event.predictedPeak;
            if (event.type === "memory") told.push(event);
            if (event.type !== "step") return;
            if (event.step === 1) answers.push(control.resize(2), control.resize(1));
            if (event.step === 4) answers.push(control.resize(most));
          },
        },
      );
      const limits = await Promise.all(answers);
      const least = told.find(({ asked }) => asked === 1)!;
      expect(told.filter(({ asked }) => asked > 2).map(({ asked, limit }) => [asked, limit])).toEqual([
        [most, most],
        [most, most],
      ]);
      const held = least.returned ? least.limit : most;
      expect(limits).toEqual([most, most, held, held, most]);
      expect(least.limit).toBeLessThan(most);
      expect(least.predictedPeak).toBeLessThan(before);
      expect(told.at(-1)!.schedule.overhead).toBeLessThan(1e-9);
      expect(bitsOf(output)).toEqual(bitsOf("whole"));
      expect(await control.resize(most)).toBeNull();
    },
  );

  test.each([false, true])("answers null when the run fails; a control is for one run (isolate: %p)", async (isolate) => {
    const control = createMemoryControl();
    const early = control.resize(1);
    const failing = () =>
      train({ ...config("failing"), data: join(folder, "none.jsonl") }, { isolate, memoryControl: control }).catch(
        (error: unknown) => error as Error,
      );
    expect(await failing()).toBeInstanceOf(UserError);
    expect(await early).toBeNull();
    expect(await failing()).toMatchObject({ name: "UserError", message: expect.stringContaining("for one run") });
  });

  test("needs a limit to begin with, and bytes", async () => {
    const control = createMemoryControl();
    expect(() => control.resize(-1)).toThrow("a positive number of bytes; got -1");
    const { memory: _, ...without } = config("without");
    const failed = await train(without, { memoryControl: control }).catch((error: unknown) => error);
    expect((failed as Error).message).toContain("needs one to begin with");
  });
});
