import { beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { evaluate, plan, type RunEvent, train, UserError, type VerbEvent } from "../../src/index.ts";
import { OBJECTIVE_NAMES } from "../../src/objectives/index.ts";
import { writeSafetensors } from "../../src/hf/weights/safetensors-write.ts";
import { CHILD } from "../../src/train/apart/train-apart.ts";
import { temporaryFolder } from "../hf/temp.ts";
import { writeTinyModel } from "../support/cli.ts";
import { SLOW, some } from "../support/slow.ts";

setDefaultTimeout(120_000);

const root = join(import.meta.dir, "../..");
const folder = temporaryFolder();
const model = join(folder, "models/SmolLM2-135M");
const chat = (word: string) =>
  `${JSON.stringify({
    messages: [
      { role: "user", content: `Define ${word}.` },
      { role: "assistant", content: `A thing called ${word}.` },
    ],
  })}\n`;

beforeAll(() => {
  mkdirSync(model, { recursive: true });
  writeTinyModel(model, { num_hidden_layers: 2, hidden_size: 16, head_dim: 4, intermediate_size: 16 });
  writeFileSync(join(folder, "chats.jsonl"), ["king", "house", "water", "tree"].map(chat).join(""));
  writeFileSync(join(folder, "valid.jsonl"), chat("gold"));
  const row = (values: readonly number[]) => BigInt64Array.from(values, BigInt);
  writeSafetensors(join(folder, "batch.safetensors"), [
    { name: "input_ids", dtype: "i64", shape: [1, 4], data: row([5, 6, 7, 8]) },
    { name: "labels", dtype: "i64", shape: [1, 4], data: row([-100, 6, 7, 8]) },
  ]);
  mkdirSync(join(folder, "node_modules"));
  symlinkSync(root, join(folder, "node_modules/remat"));
});

const config = (output: string) => ({
  model,
  data: join(folder, "chats.jsonl"),
  output: join(folder, output),
  sequenceLength: 64,
  steps: 3,
  threads: 1,
  sample: false,
});

const adapterOf = (output: string) => readFileSync(join(folder, output, "adapter_model.safetensors"));

describe("train", () => {
  test("is the same to the bit in this process and in one of its own, tells the same, and leaves this one alone", async () => {
    const signals = ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"] as const;
    const listeners = () => signals.map((name) => process.listenerCount(name));
    const before = listeners();
    const told = async (output: string, isolate: boolean) => {
      const events: RunEvent[] = [];
      const result = await train(config(output), { isolate, sink: (event) => events.push(event) });
      return { result, events };
    };
    const here = await told("here", false);
    const apart = await told("apart", true);
    expect(listeners()).toEqual(before);
    expect(adapterOf("apart").equals(adapterOf("here"))).toBe(true);
    const shapes = ({ events }: typeof here) =>
      events
        // How far the data are is told by the clock.
        .filter(({ type }) => type !== "prepare")
        .map((event) => (event.type === "step" ? [event.type, event.step, event.loss, event.gradientNorm] : [event.type]));
    expect(shapes(apart)).toEqual(shapes(here));
    expect(here.result).toMatchObject({ reason: "finished", step: 3, steps: 3, output: join(folder, "here") });
    expect(apart.result.loss).toBe(here.result.loss);
  });

  test.each(some([true, false], 1))("ends in good order when it is asked to, and goes on (isolate: %p)", async (isolate) => {
    const output = `stopped-${isolate}`;
    const controller = new AbortController();
    const asked = { ...config(output), steps: 6, saveEvery: 3 };
    const stopped = await train(asked, {
      isolate,
      signal: controller.signal,
      sink: (event) => event.type === "step" && event.step === 2 && controller.abort(),
    });
    expect(stopped.reason).toBe("interrupted");
    expect(stopped.step).toBeLessThan(6);
    const done = await train({ ...asked, resume: true }, { isolate });
    expect(done).toMatchObject({ reason: "finished", step: 6 });
    await train({ ...config(`${output}-whole`), steps: 6 });
    expect(adapterOf(output).equals(adapterOf(`${output}-whole`))).toBe(true);
  });

  test.each([false, true])(
    "a signal before the run is an error with the exit code of an interruption (isolate: %p)",
    async (isolate) => {
      const run = train(config(`before-${isolate}`), { isolate, signal: AbortSignal.abort() });
      const error = await run.catch((cause: unknown) => cause);
      expect(error).toBeInstanceOf(UserError);
      expect((error as UserError).exitCode).toBe(130);
      expect(existsSync(join(folder, `before-${isolate}`))).toBe(false);
    },
  );

  test("a signal while the process of its own starts ends that one too", async () => {
    const controller = new AbortController();
    const run = train(config("starting"), { isolate: true, signal: controller.signal });
    // It takes longer to start than this.
    setTimeout(() => controller.abort(), 20);
    expect(await run.catch((cause: unknown) => cause)).toMatchObject({ name: "UserError", exitCode: 130 });
    expect(existsSync(join(folder, "starting"))).toBe(false);
  });

  test.each(some([true, false], 1))("a signal behind the last event changes nothing (isolate: %p)", async (isolate) => {
    const controller = new AbortController();
    const run = await train(config(`behind-${isolate}`), {
      isolate,
      signal: controller.signal,
      sink(event) {
        if (event.type !== "done") return;
        // The process of its own goes away in the meantime.
        if (isolate) Bun.sleepSync(500);
        controller.abort();
      },
    });
    expect(run.reason).toBe("finished");
  });

  test.each([false, true])("throws what a user can mend (isolate: %p)", async (isolate) => {
    const bad = train({ ...config("bad"), data: join(folder, "missing.jsonl") }, { isolate });
    expect(await bad.catch((error: unknown) => error)).toBeInstanceOf(UserError);
    const unknown = train({ ...config("bad"), rnk: 3 } as never, { isolate });
    expect(await unknown.catch((error: Error) => error.message)).toContain('unknown key "rnk"; did you mean rank?');
  });

  test.each(some([true, false], 1))("an error of the sink ends the run and is thrown as it is (isolate: %p)", async (isolate) => {
    const cause = new Error("no more");
    const sink = (event: RunEvent) => {
      if (event.type === "step") throw cause;
    };
    const run = train({ ...config(`sink-${isolate}`), steps: 50 }, { isolate, sink });
    expect(await run.catch((error: unknown) => error)).toBe(cause);
  });

  test("a process of its own that is killed is told, with the signal", async () => {
    const run = train(
      { ...config("killed"), steps: 1000 },
      {
        isolate: true,
        sink(event) {
          if (event.type !== "step" || event.step !== 2) return;
          // The only child of this process that trains.
          const found = Bun.spawnSync(["pkill", "-KILL", "-P", String(process.pid), "-f", CHILD]);
          expect(found.exitCode).toBe(0);
        },
      },
    );
    expect(await run.catch((error: Error) => error.message)).toContain("SIGKILL");
  });
});

describe("evaluate", () => {
  const asked = { model, data: join(folder, "chats.jsonl"), sequenceLength: 64, threads: 1 };

  test("lets the event loop in, and ends when it is asked to", async () => {
    const data = join(folder, "many.jsonl");
    const lines = Array.from({ length: 2_000 }, (_, i) => chat(`thing ${i}`).replace("{", `{"id":${i},`));
    writeFileSync(data, lines.join(""));
    const controller = new AbortController();
    const cause = new Error("enough");
    // The columns that are not used are told when all examples are tokenized: a timer is heard between two rows, or never.
    const sink = (event: VerbEvent) => {
      if (event.type === "note" && event.text.includes("not used")) setTimeout(() => controller.abort(cause), 0);
    };
    const run = evaluate({ ...asked, data }, { sink, signal: controller.signal });
    expect(await run.catch((error: unknown) => error)).toBe(cause);
  });

  test("refuses a signal that came before it", async () => {
    const cause = new Error("too late");
    const run = evaluate(asked, { signal: AbortSignal.abort(cause) });
    expect(await run.catch((error: unknown) => error)).toBe(cause);
  });
});

describe("a process of its own without its parent", () => {
  /** A host that trains in a process of its own, told of the child by a first event. */
  const host = (output: string) => {
    const script = join(folder, `${output}.ts`);
    const asked = { ...config(output), steps: 5000, saveEvery: 1000 };
    writeFileSync(
      script,
      `import { train } from "remat";\nconsole.log("begun");\nawait train(${JSON.stringify(asked)}, { isolate: true, sink: (event) => event.type === "step" && console.log(event.step) });\n`,
    );
    return Bun.spawn([process.execPath, script], { cwd: folder, stdout: "pipe", stderr: "ignore" });
  };
  const childOf = async (pid: number): Promise<number> => {
    for (;;) {
      const [child] = Bun.spawnSync(["pgrep", "-P", String(pid), "-f", CHILD])
        .stdout.toString()
        .trim()
        .split("\n");
      if (child) return Number(child);
      await Bun.sleep(1);
    }
  };
  /** Resolves when a process that is no child of this one has ended. A zombie that nobody waits for has ended, too. */
  const ended = async (pid: number): Promise<void> => {
    const isThere = () => {
      try {
        return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
      } catch {
        return false;
      }
    };
    while (isThere()) await Bun.sleep(20);
  };

  test("saves, exports and ends when the parent is killed in the middle", async () => {
    const parent = host("orphan");
    const child = await childOf(parent.pid);
    for await (const text of parent.stdout.pipeThrough(new TextDecoderStream())) if (/^\d/m.test(text)) break;
    parent.kill("SIGKILL");
    await ended(child);
    expect(adapterOf("orphan").length).toBeGreaterThan(0);
    const done = await train({ ...config("orphan"), steps: 5000, saveEvery: 1000, resume: true, dryRun: true });
    expect(done.reason).toBe("dry-run");
  });

  test("ends when the parent is killed before it has said anything", async () => {
    const parent = host("stillborn");
    const child = await childOf(parent.pid);
    parent.kill("SIGKILL");
    await ended(child);
  });

  test("refuses to be started by hand", async () => {
    const started = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), CHILD], { stdin: "ignore", stderr: "pipe" });
    expect(await new Response(started.stderr).text()).toContain("for processes that Remat starts itself");
    expect(await started.exited).toBe(2);
  });
});

describe("docs/library.md", () => {
  const page = readFileSync(join(root, "docs/library.md"), "utf8");
  const examples = [...page.matchAll(/^```ts\n([^]*?)^```/gm)].map(([, code]) => code!);
  const run = async (name: string, code: string) => {
    writeFileSync(join(folder, name), code);
    const child = Bun.spawn([process.execPath, name], { cwd: folder, stdout: "pipe", stderr: "pipe" });
    const [stdout, stderr] = await Promise.all([new Response(child.stdout).text(), new Response(child.stderr).text()]);
    expect({ code: await child.exited, stderr }).toEqual({ code: 0, stderr: "" });
    return stdout;
  };

  test("the first example trains, evaluates and chats in 26 lines", async () => {
    expect(examples[0]!.split("\n").filter((line) => line.trim() !== "").length).toBeLessThanOrEqual(26);
    const out = await run("first.ts", examples[0]!);
    expect(out).toMatch(/^1 \d\.\d{3}\n[^]*held-out loss \d\.\d{3}\n/);
  });

  test("every other example runs", async () => {
    expect(examples.length).toBe(5);
    expect(await run("second.ts", examples[1]!)).toMatch(/^finished (\d+) of \1\n$/);
    expect(await run("limit.ts", examples[2]!)).toContain("the run keeps within 1073741824 bytes now");
    expect(await run("third.ts", examples[3]!)).toContain('object: "list"');
    await run("fourth.ts", examples[4]!);
  });
});

test.each(some(OBJECTIVE_NAMES, 2))("a plan of objective %s reads no examples", async (objective) => {
  const sizes = { sequenceLength: 16, batchSize: 2, threads: 1, device: "wasm" } as const;
  if (objective === "mlm") return expect(plan({ model, objective, ...sizes })).rejects.toThrow("expected a text encoder");
  const report = await plan({ model, objective, measure: SLOW, ...sizes });
  expect(report.memory.peak).toBeGreaterThan(report.memory.process);
});
