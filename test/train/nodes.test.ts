import { afterAll, describe, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createCoordinator } from "../../src/train/nodes/coordinator.ts";
import { numericsDifference } from "../../src/train/nodes/numerics.ts";
import { createStepWork } from "../../src/train/nodes/step-work.ts";
import { remat, refused, root, writeTinyModel } from "../support/cli.ts";
import { type FakeBehaviour, fakeVector, fakeWorker, gradientsOf, partOf, PREPARE, sumOf } from "../support/nodes.ts";
import { childrenOf, signal, slowed } from "../support/process-tree.ts";
import { slowTest } from "../support/slow.ts";

const SIZE = 9;
const bitsOf = (values: Float32Array) => Buffer.from(values.buffer, values.byteOffset, values.byteLength).toString("hex");

describe("the sum of a step's gradients", () => {
  test("is that in the order of the micro-batches, in whatever order they come and however often", () => {
    const expected = bitsOf(sumOf(3, 4, SIZE));
    const orders = [0, 1, 2, 3].flatMap((a) =>
      [0, 1, 2, 3].flatMap((b) => [0, 1, 2, 3].flatMap((c) => [[a, b, c, ...[0, 1, 2, 3].toReversed()]])),
    );
    for (const order of orders) {
      const sum = new Float32Array(SIZE);
      const work = createStepWork(3, 4, sum);
      for (const index of order) work.take(index, partOf(3, index), gradientsOf(3, index, SIZE));
      expect(work.isDone).toBe(true);
      expect(bitsOf(sum)).toBe(expected);
      expect(work.parts()).toEqual([0, 1, 2, 3].map((index) => partOf(3, index)));
    }
    // Numbers of which the order matters: otherwise the test would hold for any.
    const backwards = new Float32Array(SIZE);
    for (const index of [3, 2, 1, 0])
      for (const [i, value] of gradientsOf(3, index, SIZE).entries()) backwards[i] = Math.fround(backwards[i]! + value);
    expect(bitsOf(backwards)).not.toBe(expected);
  });
});

describe("a coordinator", () => {
  /** Runs steps of 5 micro-batches with workers of some behaviour. */
  async function steps(count: number, behaviours: readonly FakeBehaviour[], ownMs = 3) {
    const { vector, gradients, zeroGradients } = fakeVector(SIZE);
    const warnings: string[] = [];
    const coordinator = createCoordinator({
      vector,
      encoding: "f32",
      zeroGradients,
      prepare: PREPARE,
      warn: (text) => void warnings.push(text),
    });
    const workers = behaviours.map((behaviour) => fakeWorker(SIZE, behaviour));
    for (const [i, { link }] of workers.entries()) coordinator.add(`worker ${i + 1}`, link);
    await Bun.sleep(5);
    let elsewhere = 0;
    for (let step = 1; step <= count; step++) {
      const parts = await coordinator.learn({ step, draw: 5 * step, count: 5, total: 1, factor: 1 }, async ({ index }) => {
        await Bun.sleep(ownMs);
        for (const [i, value] of gradientsOf(step, index, SIZE).entries()) gradients[i]! += value;
        return partOf(step, index);
      });
      expect(parts).toEqual([0, 1, 2, 3, 4].map((index) => partOf(step, index)));
      expect(bitsOf(gradients)).toBe(bitsOf(sumOf(step, 5, SIZE)));
      elsewhere += coordinator.last.elsewhere;
    }
    const { ready } = coordinator.last;
    coordinator.close();
    return { warnings, elsewhere, ready, workers };
  }

  test("leaves the same sum without workers, and with up to four", async () => {
    for (let count = 0; count <= 4; count++) {
      const { warnings, elsewhere, ready, workers } = await steps(
        4,
        Array.from({ length: count }, () => ({ ms: 3 })),
      );
      expect(warnings).toEqual([]);
      expect(ready).toBe(count + 1);
      // What two have learned counts once.
      expect(elsewhere).toBeLessThanOrEqual(workers.reduce((sum, { learned }) => sum + learned.length, 0));
      if (count > 0) expect(elsewhere).toBeGreaterThanOrEqual(4);
      // Parameters go to each worker once a step.
      for (const { told } of workers) expect(told).toEqual([...new Set(told)]);
    }
  });

  test("goes on when a worker dies, whatever it was about to do", async () => {
    for (let diesAt = 1; diesAt <= 5; diesAt++) {
      const { warnings, ready } = await steps(3, [{ diesAt }, {}]);
      expect(warnings).toEqual(["worker 1 has left the run: killed; the others go on with its work"]);
      expect(ready).toBe(2);
    }
  });

  test("gives a worker's micro-batches to others that are faster, and does what one that hangs has begun", async () => {
    const slow = await steps(4, [{ ms: 60 }, { ms: 1 }], 1);
    expect(slow.workers[0]!.learned.length).toBeLessThan(slow.workers[1]!.learned.length);
    const hung = await steps(3, [{ hangsAt: 2 }]);
    expect(hung.warnings).toEqual([]);
    expect(hung.workers[0]!.learned.length).toBe(1);
  });

  test("parts with a worker that sends gradients of another size", async () => {
    const { warnings } = await steps(2, [{ sends: SIZE - 1 }]);
    expect(warnings).toEqual([
      "worker 1 has left the run: it sent 32 bytes of gradients, expected 36; the others go on with its work",
    ]);
  });
});

test("numerics that differ are told on both sides", () => {
  expect(numericsDifference("Remat 1; Bun 2; x64", "Remat 1; Bun 2; x64")).toBeNull();
  expect(numericsDifference("Remat 1; Bun 2; x64", "Remat 1; Bun 3; x64")).toEqual({ ours: "Bun 2", theirs: "Bun 3" });
});

describe("runs with --nodes", () => {
  const folder = mkdtempSync(join(tmpdir(), "remat-test-nodes-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  const model = writeTinyModel(join(folder, "model"), { vocab_size: 2048, num_hidden_layers: 1 });
  const data = join(folder, "data.jsonl");
  const lines = Array.from({ length: 40 }, (_, i) =>
    JSON.stringify({ prompt: `Number ${i}: `, completion: `${i * i} ${"and so on ".repeat(i % 5)}` }),
  );
  writeFileSync(data, `${lines.join("\n")}\n`);
  const common = `--model ${model} --data ${data} --sequence-length 48 --gradient-accumulation 4 --threads 1 --no-sample --learning-rate 0.01 --save-minutes 0`;
  const flags = (output: string, more = "") =>
    [..."train --output".split(" "), join(folder, output), ...common.split(" "), ...more.split(" ")].filter(
      (word) => word !== "",
    );
  const hash = (output: string) => {
    const file = readdirSync(join(folder, output)).find((name) => name.endsWith(".safetensors"))!;
    return new Bun.CryptoHasher("sha256").update(readFileSync(join(folder, output, file))).digest("hex");
  };
  const train = async (output: string, more = "") => {
    const { code, stderr } = await remat(flags(output, more));
    expect(`${code} ${stderr}`).toStartWith("0 ");
    return stderr;
  };
  const elsewhere = (output: string): number[] =>
    readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
      .split("\n")
      .filter((line) => line.startsWith('{"type":"step"') && line.endsWith("}"))
      .map((line) => (JSON.parse(line) as { nodes: { elsewhere: number } }).nodes.elsewhere);

  /** The workers of a run, once one has learned something: the run stands still then. */
  async function workersOf(child: Bun.Subprocess, output: string): Promise<number[]> {
    const metrics = join(folder, output, "metrics.jsonl");
    const hasBegun = () => existsSync(metrics) && elsewhere(output).some((count) => count > 0);
    const begun = async () => {
      while (child.exitCode === null && !hasBegun()) await Bun.sleep(20);
    };
    // A worker takes a second to begin, in which this process could do all steps.
    await slowed([child.pid], begun());
    return childrenOf(child.pid);
  }

  /** Trains in a process of its own, and kills one of its workers once that has learned something. */
  async function trainAndKill(output: string, more: string): Promise<string> {
    const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...flags(output, more)], {
      stderr: "pipe",
      stdout: "ignore",
    });
    const text = new Response(child.stderr).text();
    const workers = await workersOf(child, output);
    expect(workers.length).toBeGreaterThan(0);
    process.kill(workers[0]!, "SIGKILL");
    signal(child.pid, "SIGCONT");
    const stderr = await text;
    expect(`${await child.exited} ${stderr}`).toStartWith("0 ");
    expect(stderr).toContain("worker");
    expect(stderr).toContain("has left the run: its process has ended (SIGKILL); the others go on with its work");
    return stderr;
  }

  test("two processes, of which one is killed, give the adapter of one to the bit", async () => {
    await train("one", "--steps 150");
    const stderr = await trainAndKill("killed", "--steps 150 --nodes 2");
    expect(hash("killed")).toBe(hash("one"));
    expect(stderr).toMatch(
      /nodes {11}other processes learned [\d.]+ micro-batches a step; [\d.]+ \w+ sent and [\d.]+ \w+ received a step/,
    );
    expect(elsewhere("killed").some((count) => count > 0)).toBe(true);
    expect(elsewhere("killed").at(-1)).toBe(0);
  });

  test("more processes than a step has micro-batches, and what cannot be divided, are refused", async () => {
    expect(await refused(...flags("no", "--nodes 5"))).toBe(
      "remat: --nodes 5 divides the micro-batches of a step, of which there are 4; give --gradient-accumulation 5 or more, or fewer --nodes\n",
    );
  });

  test("a run is resumed with another number of processes, but not without any", async () => {
    await train("resumed", "--steps 3 --schedule constant --save-every 3 --nodes 1");
    await train("resumed", "--steps 6 --schedule constant --save-every 3 --nodes 2 --resume");
    await train("whole", "--steps 6 --schedule constant --save-every 3");
    expect(hash("resumed")).toBe(hash("whole"));
    const message = await refused(...flags("resumed", "--steps 9 --schedule constant --save-every 3 --resume"));
    expect(message).toContain("it had gradients of micro-batches summed one by one, this one has none of that");
  });

  const losses = (output: string): number[] =>
    readFileSync(join(folder, output, "metrics.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as { type: string; loss: number })
      .filter(({ type }) => type === "step")
      .map(({ loss }) => loss);

  test("gradients in int8: two processes, stopped and resumed in the middle of a period, give the adapter of one", async () => {
    const more = "--schedule constant --gradient-encoding int8 --save-every 5";
    await train("coded-1", `${more} --steps 12 --nodes 1`);
    await train("coded-2", `${more} --steps 5 --nodes 2`);
    await train("coded-2", `${more} --steps 12 --nodes 2 --resume`);
    expect(hash("coded-2")).toBe(hash("coded-1"));
    expect(await refused(...flags("no", "--gradient-encoding bf16"))).toBe(
      "remat: --gradient-encoding bf16 is for gradients that processes send each other; say how many there are: --nodes 2\n",
    );
    const message = await refused(...flags("coded-2", "--steps 14 --schedule constant --save-every 5 --nodes 2 --resume"));
    expect(message).toContain("it had gradientEncoding int8, this one has none of that");
  });

  slowTest(
    "gradients in codes: one, two and three processes, one of them killed, and a loss curve beside that of f32",
    async () => {
      await train("f32", "--steps 150 --nodes 1");
      const exact = losses("f32");
      for (const [encoding, bound] of [
        ["bf16", 0.005],
        ["int8", 0.01],
      ] as const) {
        const more = `--steps 150 --gradient-encoding ${encoding}`;
        await train(`${encoding}-1`, `${more} --nodes 1`);
        for (const nodes of [2, 3]) {
          await trainAndKill(`${encoding}-${nodes}`, `${more} --nodes ${nodes}`);
          expect(hash(`${encoding}-${nodes}`)).toBe(hash(`${encoding}-1`));
        }
        expect(hash(`${encoding}-1`)).not.toBe(hash("f32"));
        const apart = losses(`${encoding}-1`).map((loss, i) => Math.abs(loss - exact[i]!) / exact[i]!);
        expect(Math.max(...apart)).toBeLessThan(bound);
      }
    },
  );

  slowTest(
    "Ctrl-C in the middle, and a coordinator that is killed: what is resumed goes on as if nothing had happened",
    async () => {
      const more = "--steps 120 --valid 20% --eval-every 50 --patience 100 --save-every 10";
      await train("undisturbed", `${more} --nodes 1`);
      for (const name of ["SIGINT", "SIGKILL"] as const) {
        const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), ...flags(name, `${more} --nodes 3`)], {
          stderr: "ignore",
          stdout: "ignore",
        });
        const workers = await workersOf(child, name);
        expect(workers.length).toBe(2);
        // As a terminal does, which asks all processes of the run.
        for (const pid of name === "SIGINT" ? [child.pid, ...workers] : [child.pid]) process.kill(pid, name);
        signal(child.pid, "SIGCONT");
        expect(await child.exited).toBe(name === "SIGINT" ? 130 : 137);
        // No worker outlives the run.
        const until = performance.now() + 10_000;
        while (workers.some((pid) => existsSync(`/proc/${pid}`)) && performance.now() < until) await Bun.sleep(50);
        expect(workers.filter((pid) => existsSync(`/proc/${pid}`))).toEqual([]);
        await train(name, `${more} --nodes 2 --resume`);
        expect(hash(name)).toBe(hash("undisturbed"));
      }
    },
  );

  slowTest("three and four processes, one of them killed: LoRA as one machine, full fine-tuning as one process", async () => {
    await train("plain", "--steps 200");
    for (const nodes of [3, 4]) {
      await trainAndKill(`lora-${nodes}`, `--steps 200 --nodes ${nodes}`);
      expect(hash(`lora-${nodes}`)).toBe(hash("plain"));
    }
    // Long rows: a product for the gradient of a weight goes over several blocks of tokens there.
    const full = "--method full --steps 60 --batch-size 6";
    await train("full-1", `${full} --nodes 1`);
    await trainAndKill("full-3", `${full} --nodes 3`);
    expect(hash("full-3")).toBe(hash("full-1"));
  });
});
