import { afterEach, describe, expect, test } from "bun:test";
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../../src/base/errors.ts";
import { createEventLog } from "../../src/jobs/events.ts";
import { createFileStore } from "../../src/jobs/home/files.ts";
import { type Home, openHome } from "../../src/jobs/home/home.ts";
import type { JobPlaces } from "../../src/jobs/job-config.ts";
import { createJobStore, type Job } from "../../src/jobs/job-store.ts";
import { createLedger } from "../../src/jobs/ledger.ts";
import { createQueue, type QueueOptions } from "../../src/jobs/queue.ts";
import { type ApartOptions, SuddenEnd } from "../../src/train/apart/train-apart.ts";
import type { TrainConfig } from "../../src/train/config.ts";
import type { RunEvent } from "../../src/train/run/events.ts";
import type { RunResult } from "../../src/train/run/run.ts";
import { temporaryFolder } from "../hf/temp.ts";

const folder = temporaryFolder();
let homes = 0;

/** A training that the test leads. */
interface Run {
  readonly config: TrainConfig;
  readonly options: ApartOptions;
  tell(event: Partial<RunEvent>): void;
  end(reason?: "finished" | "interrupted"): void;
  fail(error: unknown): void;
}

/** A home with a queue whose jobs are trained by the test. */
function makeQueue(
  options: Partial<QueueOptions> & { readonly limit?: number } = {},
  home: Home = openHome(join(folder, `home-${homes++}`)),
) {
  const jobs = createJobStore(home.database);
  const files = createFileStore(home);
  const upload = files.begin();
  upload.write(new TextEncoder().encode("{}\n"));
  const { id: training } = upload.finish({ filename: "a.jsonl", purpose: "fine-tune", lifetime: null });
  const places: JobPlaces = { home, files, jobs, bases: new Map([["base", "/models/base"]]), adapterOf: () => null };
  const runs: Run[] = [];
  const train = (config: TrainConfig, _given: readonly string[], apart: ApartOptions): Promise<RunResult> => {
    const { promise, resolve, reject } = Promise.withResolvers<RunResult>();
    mkdirSync(config.output, { recursive: true });
    const run: Run = {
      config,
      options: apart,
      tell: (event) => apart.sink?.(event as RunEvent),
      end: (reason = "finished") => resolve({ reason, step: 4 } as RunResult),
      fail: reject,
    };
    apart.signal?.addEventListener("abort", () => run.end("interrupted"));
    runs.push(run);
    return promise;
  };
  const ledger = createLedger({ limit: options.limit ?? 1000, serving: { held: () => 0, promised: () => 0 } });
  const events = createEventLog(home.database, () => {});
  const queue = createQueue({
    places,
    events,
    ledger,
    parallel: 1,
    keepRuns: null,
    train,
    freeDisk: () => 1e12,
    retryMs: 1,
    ...options,
  });
  let count = 0;
  const add = (memory: { least: number; most: number; asked?: number } = { least: 100, most: 200 }): Job => {
    const id = `ftjob-${homes}-${count++}`;
    const job = jobs.insert({
      id,
      base: "base",
      parent: null,
      name: `ft:${id}`,
      request: {},
      config: { base: "base", parent: null, training, validation: null, chatTemplate: null, settings: {} },
      examination: { memory: { asked: null, curve: [], ...memory } } as unknown as Job["examination"],
      idempotency_key: null,
      request_hash: "",
    });
    queue.wake();
    return job;
  };
  const status = (job: Job) => jobs.get(job.id)!.status;
  const until = async (isTrue: () => boolean) => {
    const begin = performance.now();
    while (!isTrue()) {
      if (performance.now() - begin > 5000) throw new Error(`not within 5 s: ${String(isTrue)}`);
      await Bun.sleep(1);
    }
  };
  const started = (number: number) => until(() => runs.length >= number).then(() => runs[number - 1]!);
  const messages = (job: Job) => {
    events.flush();
    return events.behind(job.id, 0, 1000).map(({ message }) => message);
  };
  return { home, places, jobs, queue, ledger, events, runs, add, status, until, started, messages };
}

const open: ReturnType<typeof makeQueue>[] = [];
const make = (...args: Parameters<typeof makeQueue>) => {
  const made = makeQueue(...args);
  open.push(made);
  return made;
};
afterEach(async () => {
  for (const { queue, home } of open.splice(0)) {
    await queue.drain();
    home.close();
  }
});

describe("a queue", () => {
  test("trains one job after the other at the lowest priority, first come, first served, and as many at a time as it is to", async () => {
    const { add, started, status, until, runs } = make();
    const [a, b] = [add(), add()];
    const first = await started(1);
    expect(first.options.under).toEqual(["nice", "-n", "19"]);
    expect([status(a), status(b)]).toEqual(["running", "queued"]);
    first.end();
    const second = await started(2);
    expect([status(a), status(b)]).toEqual(["succeeded", "running"]);
    second.end();
    await until(() => status(b) === "succeeded");

    const wide = make({ parallel: 2 });
    const jobs = [wide.add(), wide.add(), wide.add()];
    await wide.started(2);
    expect(jobs.map(wide.status)).toEqual(["running", "running", "queued"]);
    expect(runs.length).toBe(2);
  });

  test("gives jobs memory by their plans: as much as there is, no less than the least; others give way; the rest waits in order", async () => {
    const { add, started, runs, ledger, messages, status } = make({ parallel: 3, limit: 1000 << 20 });
    const mib = (least: number, most: number, asked?: number) => ({
      least: least << 20,
      most: most << 20,
      ...(asked === undefined ? {} : { asked: asked << 20 }),
    });
    add(mib(100, 900));
    const first = await started(1);
    expect(first.config.memory).toBe("900MiB");
    const limits: number[] = [];
    first.options.memoryControl!.attach((bytes) => {
      limits.push(Math.floor(bytes / 2 ** 20));
      return Promise.resolve(bytes);
    });
    add(mib(600, 800));
    const second = await started(2);
    expect(limits).toEqual([384]);
    expect(second.config.memory).toBe("600MiB");
    const waits = add(mib(400, 900));
    const behind = add(mib(10, 20));
    await Bun.sleep(20);
    expect(runs.length).toBe(2);
    expect(messages(waits)[0]).toBe("The job waits for memory: it needs 400 MiB, and of 1000 MiB others need all but 300 MiB.");
    expect(status(behind)).toBe("queued");
    second.end();
    await started(4);
    const third = runs.find(({ config }) => config.output.includes(waits.id))!;
    expect(third.config.memory).toBe("482MiB");
    expect(runs.find(({ config }) => config.output.includes(behind.id))!.config.memory).toBe("20MiB");
    expect(limits.at(-1)).toBe(482);
    expect([...ledger.jobs.values()].reduce((sum, bytes) => sum + bytes, 0)).toBeLessThanOrEqual(1000 << 20);
    // One that says its memory itself is left to it.
    const own = make({ limit: 1000 << 20 });
    own.add(mib(100, 900, 500));
    const alone = await own.started(1);
    expect(alone.config.memory).toBeUndefined();
    expect(alone.options.memoryControl).toBeUndefined();
    expect([...own.ledger.jobs.values()]).toEqual([500 << 20]);
  });

  test("pauses, resumes and cancels a job that trains and one that waits; checkpoints are gone on from", async () => {
    const { add, started, queue, jobs, status, until, home, runs } = make();
    const [a, b] = [add(), add()];
    const first = await started(1);
    expect(first.config).toMatchObject({ resume: false, overwrite: true });
    queue.pause(jobs.get(b.id)!);
    queue.pause(jobs.get(a.id)!);
    await until(() => status(a) === "queued");
    expect(jobs.get(a.id)!.paused).toBe(true);
    await Bun.sleep(10);
    expect(runs.length).toBe(1);
    const saved = join(home.runOf(a.id), "checkpoints/step-00000003");
    mkdirSync(saved, { recursive: true });
    writeFileSync(join(saved, "state.json"), "{}");
    queue.resume(jobs.get(a.id)!);
    const second = await started(2);
    expect(second.config).toMatchObject({ resume: true, overwrite: false });
    expect(second.options.fence).toEqual({ path: home.fenceOf(a.id), attempt: 2 });
    expect(readFileSync(home.fenceOf(a.id), "utf8")).toBe("2");
    queue.cancel(jobs.get(a.id)!);
    expect(status(a)).toBe("cancelled");
    queue.cancel(jobs.get(b.id)!);
    expect(status(b)).toBe("cancelled");
    await until(() => second.options.signal!.aborted);
    expect(existsSync(saved)).toBe(true);
    await Bun.sleep(10);
    expect([status(a), status(b), runs.length]).toEqual(["cancelled", "cancelled", 2]);
  });

  test("goes on with a job whose process was killed, and gives up when that happens again and again without anything new", async () => {
    const { add, started, status, until, jobs, messages } = make();
    const job = add();
    (await started(1)).fail(new SuddenEnd("SIGKILL", "last words"));
    const second = await started(2);
    expect(jobs.get(job.id)!.sudden_ends).toBe(1);
    second.tell({ type: "checkpoint", step: 2 });
    expect(jobs.get(job.id)).toMatchObject({ sudden_ends: 0, step: 2 });
    for (let i = 2; i <= 12; i++) (await started(i)).fail(new SuddenEnd("SIGKILL", "last words"));
    await until(() => status(job) === "failed");
    expect(jobs.get(job.id)!.error).toMatchObject({ code: "process_ended" });
    expect(jobs.get(job.id)!.error!.message).toContain("SIGKILL");
    expect(messages(job)).toContain("last words");
  });

  test("says why a job has failed, by the names that clients know", async () => {
    const { add, started, status, until, jobs, places, messages } = make();
    const job = add();
    const run = await started(1);
    const path = places.files.pathOf(places.files.get(job.config.training)!);
    run.fail(new UserError(`${path}:3: expected messages, got "x"; in ${places.home.folder}/runs`));
    await until(() => status(job) === "failed");
    const message = 'a.jsonl:3: expected messages, got "x"; in HOME/runs';
    expect(jobs.get(job.id)!.error).toEqual({ code: "training_failed", message, param: null });
    expect(messages(job).at(-1)).toBe(`The job has failed: ${message}`);
    const other = add();
    (await started(2)).fail(new TypeError("x is not a function"));
    await until(() => status(other) === "failed");
    expect(jobs.get(other.id)!.error!.code).toBe("internal_error");
    expect(messages(other).join("\n")).toContain("queue.test.ts");
  });

  test("has a job wait whose folder another process has not let go of yet", async () => {
    const { add, started, status, until } = make();
    const job = add();
    (await started(1)).fail(new UserError("another run is at work in this folder", 2, { cause: { code: "EBUSY" } }));
    (await started(2)).end();
    await until(() => status(job) === "succeeded");
  });

  test("stands still while the disk is full, says so, and loses nothing", async () => {
    let free = 1e12;
    const { add, started, status, until, queue, messages, runs } = make({ freeDisk: () => free });
    const [a, b] = [add(), add()];
    const first = await started(1);
    free = 1000;
    first.fail(new UserError("cannot write: the disk is full", 2, { cause: { code: "ENOSPC" } }));
    await until(() => status(a) === "queued");
    expect(queue.halted).not.toBeNull();
    await Bun.sleep(100);
    expect([status(a), status(b), runs.length]).toEqual(["queued", "queued", 1]);
    expect(messages(a).filter((text) => text.startsWith("The queue is paused"))).toHaveLength(1);
    free = 1e12;
    const second = await started(2);
    expect(queue.halted).toBeNull();
    expect(messages(a)).toContain("The queue goes on: there is room on the disk.");
    second.end();
    await until(() => status(a) === "succeeded");
  });

  test("goes on with what an earlier server left; a step that was not told is, and none is told twice", async () => {
    const first = makeQueue();
    const job = first.add();
    const run = await first.started(1);
    const step = { type: "step", step: 1, steps: 4, loss: 2.5, metrics: {}, tokens: 7 } as Partial<RunEvent>;
    run.tell(step);
    first.events.flush();
    // Killed: nobody drains the queue.
    const lines = [1, 2].map((step) => JSON.stringify({ type: "step", step, steps: 4, loss: 2.5 / step, tokens: 7 }));
    writeFileSync(join(first.home.runOf(job.id), "metrics.jsonl"), `${lines.join("\n")}\n{"type":"st`);
    first.home.close();
    const second = make({}, openHome(first.home.folder));
    expect(second.status(job)).toBe("running");
    second.queue.start();
    const again = await second.started(1);
    expect(again.options.fence!.attempt).toBe(2);
    again.tell(step);
    again.tell({ ...step, step: 3 } as Partial<RunEvent>);
    second.events.flush();
    const told = second.events.behind(job.id, 0, 100).filter(({ type }) => type === "metrics");
    expect(told.map(({ data }) => [data!["step"], data!["train_loss"]])).toEqual([
      [1, 2.5],
      [2, 1.25],
      [3, 2.5],
    ]);
    again.end();
    await second.until(() => second.status(job) === "succeeded");
    expect(second.jobs.get(job.id)!.trained_tokens).toBe(14);
  });

  test("is whole in a copy of the folder that is made while it trains", async () => {
    const first = make();
    const [job, waits] = [first.add(), first.add()];
    const run = await first.started(1);
    run.tell({ type: "step", step: 1, steps: 4, loss: 2.5, metrics: {}, tokens: 7 } as Partial<RunEvent>);
    first.events.flush();
    const copy = join(folder, "copy");
    cpSync(first.home.folder, copy, { recursive: true });
    run.end();
    const second = make({}, openHome(copy));
    expect([second.status(job), second.status(waits)]).toEqual(["running", "queued"]);
    expect(second.events.behind(job.id, 0, 100).map(({ data }) => data?.["step"])).toContain(1);
    second.queue.start();
    const again = await second.started(1);
    expect(again.config.output).toBe(join(copy, "runs", job.id));
    again.end();
    await second.started(2);
  });

  test("keeps the run folders of the newest jobs, and the models of all that have succeeded", async () => {
    const { add, started, status, until, home, jobs } = make({ keepRuns: 1 });
    const all = [add(), add(), add()];
    for (const [i, job] of all.entries()) {
      const run = await started(i + 1);
      mkdirSync(join(run.config.output, "checkpoints"));
      writeFileSync(join(run.config.output, "adapter_config.json"), "{}");
      if (i === 1) run.fail(new UserError("bad"));
      else run.end();
      await until(() => !["queued", "running"].includes(status(job)));
    }
    expect(all.map(({ id }) => jobs.get(id)!.kept)).toEqual(["model", "nothing", "whole"]);
    const has = (job: Job, name: string) => existsSync(join(home.runOf(job.id), name));
    expect(all.map((job) => [has(job, "checkpoints"), has(job, "adapter_config.json")])).toEqual([
      [false, true],
      [false, false],
      [true, true],
    ]);
  });

  test("has its jobs save when it ends, and they wait for the next start", async () => {
    const { add, started, queue, status, messages } = make();
    const job = add();
    const run = await started(1);
    await queue.drain();
    expect(run.options.signal!.aborted).toBe(true);
    expect(status(job)).toBe("queued");
    expect(messages(job)).toContain("The job has saved its state, and goes on later");
  });

  test("an older attempt changes nothing any more", () => {
    const { add, jobs } = make({ freeDisk: () => 0 });
    const job = add();
    jobs.change(job.id, { attempt: 2 });
    expect(jobs.change(job.id, { status: "succeeded" }, 1)).toBe(false);
    expect(jobs.get(job.id)!.status).toBe("queued");
  });
});
