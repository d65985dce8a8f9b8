import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { parseSize } from "../../../src/base/bytes.ts";
import type { BoxMemory, Job, JobEvent, Page, RunReport } from "../../../src/page/api/types.ts";
import { createEventReader, type ServerEvent } from "../../../src/page/api/sse.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { BASE, type Box, chats, openBox, QUICK, writeBase } from "../../support/box.ts";
import { remat } from "../../support/cli.ts";
import { limitHere } from "../../support/process-tree.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const home = join(folder, "home");
let model: string;
let box: Box;
let id: string;
const limit = limitHere(2 ** 31);
beforeAll(async () => {
  model = writeBase(folder);
  box = await openBox({ home, model, memory: limit });
  const remat = { ...QUICK, sample: true, valid: "34%", eval_every: 2, learning_rate: 0.01 };
  id = (await box.create({ training_file: await box.upload(chats(), "words.jsonl"), suffix: "words", remat })).id;
  await box.until(id);
});
afterAll(() => box.server.stop());

const get = async <T>(path: string): Promise<T> => (await (await box.ask(path)).json()) as T;
const job = (path = "") => `/v1/fine_tuning/jobs/${id}${path}`;

describe("a job's insights", () => {
  test("are its numbers as a table, the same as in its events", async () => {
    const response = await box.ask(job("/metrics"));
    expect(response.headers.get("content-type")).toBe("text/csv; charset=utf-8");
    const [head, ...rows] = (await response.text()).trimEnd().split("\n");
    expect(head).toBe("step,train_loss,valid_loss,learning_rate,gradient_norm,tokens_per_second,memory,tokens,seconds");
    const { data } = await get<Page<JobEvent>>(job("/events?limit=1000"));
    const told = data.filter(({ type }) => type === "metrics").map((event) => event.data!);
    const steps = told.filter((each) => "train_loss" in each).sort((a, b) => Number(a["step"]) - Number(b["step"]));
    const evaluations = told.filter((each) => "valid_loss" in each).sort((a, b) => Number(a["step"]) - Number(b["step"]));
    expect(steps.length).toBe(12);
    expect(evaluations.length).toBeGreaterThan(5);
    expect(rows).toEqual(
      [...steps, ...evaluations].map((each) =>
        head!
          .split(",")
          .map((name) => String(each[name] ?? ""))
          .join(","),
      ),
    );
  });

  test("are each so-manieth step of these numbers, where the whole would be too much", async () => {
    const steps = async (query: string) =>
      (await (await box.ask(job(`/metrics${query}`))).text())
        .trimEnd()
        .split("\n")
        .slice(1)
        .filter((row) => row.split(",")[1] !== "")
        .map((row) => Number(row.split(",")[0]));
    expect(await steps("?every=5")).toEqual([1, 5, 10]);
    expect((await steps("")).length).toBe(12);
    for (const every of ["0", "x", "1.5"])
      expect([every, (await box.ask(job(`/metrics?every=${every}`))).status]).toEqual([every, 400]);
  });

  test("are its events by their type", async () => {
    const all = (await get<Page<JobEvent>>(job("/events?limit=1000"))).data;
    for (const type of ["message", "metrics"] as const) {
      const { data } = await get<Page<JobEvent>>(job(`/events?limit=1000&type=${type}`));
      expect(data.length).toBeGreaterThan(5);
      expect(data).toEqual(all.filter((event) => event.type === type));
    }
    expect((await box.ask(job("/events?type=x"))).status).toBe(400);
  });

  test("are its plan, its memory over a step and its samples", async () => {
    const report = await get<RunReport>(job("/report"));
    expect(report).toMatchObject({ object: "fine_tuning.job.report", family: "llama", layers: 2 });
    const { resident, stash, workspace, temporary, peak, timeline, measured } = report.memory;
    const sum = Object.values(resident).reduce((total, part) => total + part, 0);
    expect(peak).toBe(sum + stash + workspace + temporary);
    expect(measured).toBeGreaterThan(sum);
    expect(timeline.slots.at(-1)!.end).toBe(1);
    expect(report.sample!.prompt).toStartWith("Define ");
    expect(report.first_example.map(({ trained }) => trained)).toEqual([false, true, false]);
    expect(JSON.stringify(report)).not.toContain(folder);
  });

  test("are its configuration, which train takes as a file", async () => {
    const response = await box.ask(job("/config"));
    expect(response.headers.get("content-type")).toBe("application/yaml; charset=utf-8");
    const text = await response.text();
    expect(parse(text)).toMatchObject({ model: BASE, data: "words.jsonl", valid: "34%", "learning-rate": 0.01, epochs: 3 });
    writeFileSync(join(folder, "words.jsonl"), chats());
    writeFileSync(join(folder, "job.yaml"), text);
    const dry = await remat(["train", join(folder, "job.yaml"), "--output", join(folder, "again"), "--dry-run"]);
    expect([dry.code, dry.stderr]).toEqual([0, expect.any(String)]);
  });

  test("are refused for jobs that are not there or have not begun", async () => {
    for (const path of ["/metrics", "/report", "/config"])
      expect([path, (await box.ask(`/v1/fine_tuning/jobs/ftjob-x${path}`)).status]).toEqual([path, 404]);
    await box.ask(`/v1/models/${encodeURIComponent((await get<Job>(job())).remat.name)}`, { method: "DELETE" });
    const gone = await box.ask(job("/report"));
    expect([gone.status, ((await gone.json()) as { error: { code: string } }).error.code]).toEqual([404, "no_report"]);
    expect((await box.ask(job("/metrics"))).status).toBe(200);
  });
});

test("the box's memory is told by who holds it", async () => {
  const memory = await get<BoxMemory>("/v1/memory");
  expect(memory).toMatchObject({ object: "memory", limit: (parseSize(limit) as { bytes: number }).bytes, jobs: [] });
  expect(memory.free + memory.serving.held).toBeCloseTo(memory.limit, -8);
  expect(memory.serving.models.map((each) => each.id)).toEqual([BASE]);
  const training = await box.upload(chats());
  const { id: long } = await box.create({ training_file: training, remat: { ...QUICK, epochs: 5000 } });
  await box.until(long, (job) => (job as unknown as Job).remat.step > 0);
  const { jobs } = await get<BoxMemory>("/v1/memory");
  expect(jobs.map((each) => each.id)).toEqual([long]);
  expect(jobs[0]!.now).toBeGreaterThan(20 << 20);
  await box.client.fineTuning.jobs.cancel(long);
  while ((await get<BoxMemory>("/v1/memory")).jobs.length > 0) await Bun.sleep(5);
});

describe("events of all jobs", () => {
  /** Reads a stream until it has said enough. */
  const follow = async (isEnough: (events: readonly ServerEvent[]) => boolean, lastId?: string, act?: () => Promise<unknown>) => {
    const response = await box.ask("/v1/fine_tuning/events", {
      headers: { accept: "text/event-stream", ...(lastId === undefined ? {} : { "last-event-id": lastId }) },
    });
    const read = createEventReader();
    const reader = response.body!.getReader();
    const decoder = new TextDecoder();
    const events: ServerEvent[] = [];
    await act?.();
    while (!isEnough(events)) events.push(...read(decoder.decode((await reader.read()).value, { stream: true })));
    await reader.cancel();
    return events;
  };
  const ids = (events: readonly ServerEvent[]) => events.filter(({ data }) => data !== "").map(({ id }) => id!);

  test("come as a stream from what is next, or from behind what a client has, with the job that each is of", async () => {
    const training = await box.upload(chats());
    let made: string[] = [];
    const create = async () => {
      for (const suffix of ["one", "two"]) {
        made.push((await box.create({ training_file: training, suffix, remat: QUICK })).id);
        await box.client.fineTuning.jobs.cancel(made.at(-1)!);
      }
    };
    const isOver = (events: readonly ServerEvent[]) =>
      events.filter(({ data }) => data.includes("The job is cancelled")).length === 2;
    const events = await follow(isOver, undefined, create);
    // The stream says where it begins, so that a client which has seen nothing yet misses nothing when it comes again.
    expect(events[0]!.data).toBe("");
    expect(ids(events)).toEqual(ids(events).toSorted());
    const told = events.slice(1).map(({ data }) => JSON.parse(data) as JobEvent);
    expect([...new Set(told.map((event) => event.fine_tuning_job_id))].sort()).toEqual(made.toSorted());
    const [, second, last] = [...ids(events), ""].slice(-4);
    expect(ids(await follow(isOver, events[0]!.id!))).toEqual(ids(events));
    expect(ids(await follow((found) => ids(found).includes(last!), second))).toEqual([last!]);
    const listed = await get<Page<JobEvent>>("/v1/fine_tuning/events?limit=3");
    expect([listed.data.map((event) => event.id), listed.has_more]).toEqual([ids(events).slice(-3).reverse(), true]);
  });
});
