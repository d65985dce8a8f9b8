import { describe, expect, setDefaultTimeout } from "bun:test";
import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createRandom } from "../../src/base/random.ts";
import { evaluate, generate, type RunEvent, train, UserError } from "../../src/index.ts";
import { temporaryCache, temporaryFolder } from "../hf/temp.ts";
import { root } from "../support/cli.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(240_000);

const folder = temporaryFolder();
temporaryCache();

/** Some of the held-out examples. */
const few = join(folder, "few.jsonl");
writeFileSync(few, readFileSync(join(root, "recipes/devils-dictionary/valid.jsonl"), "utf8").split("\n").slice(0, 8).join("\n"));

const common = {
  model: join(root, "recipes/base/model"),
  data: join(root, "recipes/devils-dictionary/train.jsonl"),
  valid: "4",
  sequenceLength: 128,
  truncate: true,
  steps: 2,
  threads: 2,
  sample: false,
} as const;

async function run(output: string, more: Partial<Parameters<typeof train>[0]>, isolate = false) {
  const events: RunEvent[] = [];
  const result = await train(
    { ...common, output: join(folder, output), ...more },
    { isolate, sink: (event) => events.push(event) },
  );
  return { result, start: events.find((event) => event.type === "start")! };
}

const weightsOf = (output: string, file: string) => readFileSync(join(folder, output, file));

describe("a run whose weights lie in their files", () => {
  slowTest("is the same to the bit as one in memory, and so are evaluations and answers with what it trained", async () => {
    const resident = await run("resident", { quantize: "q8", stream: "off" });
    const streamed = await run("streamed", { quantize: "q8", stream: "all" });
    expect(resident.start.stream).toBeNull();
    expect(streamed.start.stream).toMatch(
      /[KM]iB of frozen weights stay in their files; a micro-batch reads .* through a window of/,
    );
    expect(weightsOf("streamed", "adapter_model.safetensors").equals(weightsOf("resident", "adapter_model.safetensors"))).toBe(
      true,
    );
    expect(streamed.result.loss).toBe(resident.result.loss);

    const asked = { model: common.model, adapter: join(folder, "streamed"), quantize: "q8" } as const;
    const scores = await Promise.all(
      (["off", "all"] as const).map((stream) =>
        evaluate({
          ...asked,
          stream,
          data: few,
          sequenceLength: 128,
          truncate: true,
        }),
      ),
    );
    expect(scores[1]).toEqual(scores[0]!);
    const prompts = ["Define gold. ", "Define a long word that nobody knows. ", "Define king. "];
    const answers = [];
    for (const stream of ["off", "all"] as const) {
      const made = await generate({ ...asked, stream, prompts, maxNewTokens: 12, temperature: 0 });
      answers.push(made.answers);
    }
    expect(answers[1]).toEqual(answers[0]!);
  });

  // test/train/stream.test.ts tries the engine so in the plain suite, too.
  slowTest(
    "may leave all that is trained in a file, too: --method full in the least memory that works gives the same model",
    async () => {
      const full = { method: "full", optimizer: "adamw", learningRate: 1e-4 } as const;
      const free = await run("full", full);
      expect(free.start.stream).toBeNull();
      // What this process takes is that of all tests before.
      const apart = (output: string, memory: string) => run(output, { ...full, memory }, true);
      const refusal = await apart("refused", "1MiB").catch((error: unknown) => error);
      expect(refusal).toBeInstanceOf(UserError);
      const least = /the least that works is (\d+) MiB/.exec((refusal as Error).message)![1]!;
      const tight = await apart("tight", `${Number(least) + 4}MiB`);
      expect(tight.start.stream).toMatch(
        /of what is trained, its gradients and the optimizer's state lie in a file; .* an update reads/,
      );
      expect(tight.start.predictedPeak).toBeLessThan(free.start.predictedPeak);
      expect(weightsOf("tight", "model.safetensors").equals(weightsOf("full", "model.safetensors"))).toBe(true);
    },
  );

  const [KILLS, STEPS] = [8, 12];
  slowTest(`killed at ${KILLS} random instants it goes on as if nothing had happened`, async () => {
    const settings = `--valid 4 --sequence-length 128 --truncate --steps ${STEPS} --save-every 1 --no-sample --resume --quantize q8 --stream all --threads 1`;
    const argsOf = (output: string) => [
      process.execPath,
      join(root, "src/cli/main.ts"),
      "train",
      "--model",
      common.model,
      "--data",
      common.data,
      "--output",
      join(folder, output),
      ...settings.split(" "),
    ];
    const whole = Bun.spawn(argsOf("whole"), { stdout: "ignore", stderr: "ignore" });
    expect(await whole.exited).toBe(0);
    const random = createRandom(5, "kills");
    for (let kill = 0; kill < KILLS; kill++) {
      const output = `killed-${kill}`;
      const child = Bun.spawn(argsOf(output), { stdout: "ignore", stderr: "ignore" });
      const steps = join(folder, output, "checkpoints");
      const begun = () => existsSync(steps) && readdirSync(steps).some((name) => name.startsWith("step-"));
      while (!begun() && child.exitCode === null) await Bun.sleep(20);
      await Bun.sleep(500 * random.uniform());
      child.kill("SIGKILL");
      await child.exited;
      const again = Bun.spawn(argsOf(output), { stdout: "ignore", stderr: "ignore" });
      expect(await again.exited).toBe(0);
      expect(weightsOf(output, "adapter_model.safetensors").equals(weightsOf("whole", "adapter_model.safetensors"))).toBe(true);
    }
  });
});
