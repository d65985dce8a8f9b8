import { formatBytes } from "../../base/bytes.ts";
import { UserError } from "../../base/errors.ts";
import type { EventLog } from "../../jobs/events.ts";
import { newId } from "../../jobs/home/home.ts";
import { forClients, type JobPlaces, trainConfigOf } from "../../jobs/job-config.ts";
import type { Job, JobConfig, NewJob } from "../../jobs/job-store.ts";
import { borrow, type Ledger, needOf } from "../../jobs/ledger.ts";
import { readMetrics } from "../../jobs/metrics.ts";
import type { Queue } from "../../jobs/queue.ts";
import type { Examination } from "../../train/apart/examine.ts";
import { examineApart, runApart } from "../../train/apart/train-apart.ts";
import { savedCheckpoints } from "../../train/run/checkpoint.ts";
import type { RunEvent } from "../../train/run/events.ts";
import { readJson } from "../http/body.ts";
import { ApiError } from "../http/errors.ts";
import { eventStream } from "./event-stream.ts";
import type { Lane } from "./insight/lane.ts";
import { type JobRequest, type JobSettings, parseJobRequest, settingsOf } from "./job-requests.ts";
import { checkpointId, checkpointView, eventNumber, eventView, jobView } from "./job-views.ts";
import { afterOf, limitOf, listOf, notFound } from "./lists.ts";
import type { KnownModel, Registry } from "./registry.ts";
import type { Asked, HomeRoutes } from "./route.ts";

export interface JobsApiOptions {
  readonly places: JobPlaces;
  readonly events: EventLog;
  readonly queue: Queue;
  readonly ledger: Ledger;
  /** Bytes that a job may ever take. */
  mostForJobs(): number;
  readonly registry: Registry;
  /** Each check takes a process, for one of which memory is set aside. */
  readonly lane: Lane;
  /** Ends streams, which would keep the server from stopping. */
  readonly shutdown: AbortSignal;
}

/** The name by which checks and estimates go, where jobs have their ids. */
const DRY_RUN = "dry-run";

const IDEMPOTENCY = "idempotency-key";

/** https://platform.openai.com/docs/api-reference/fine-tuning */
export function jobRoutes(options: JobsApiOptions): HomeRoutes {
  const { places, events, queue } = options;
  const { jobs, home } = places;
  const create = createCreator(options);
  const found = ({ params }: Asked): Job => {
    const job = jobs.get(params["id"]!);
    if (job === null) throw notFound("fine-tuning job", params["id"]!);
    return job;
  };
  const view = (job: Job) => jobView(job, queue.progressOf(job.id));
  const train = "train" as const;
  /** Changes a job that has not ended, and answers with it as it is then. */
  const change = (what: string, act: (job: Job) => void) => ({
    scope: train,
    handle(asked: Asked) {
      const job = found(asked);
      if (job.finished_at !== null) {
        throw new ApiError(
          400,
          `the job ${job.id} has ${job.status === "cancelled" ? "been cancelled" : job.status}: it cannot be ${what}`,
          {
            code: "job_ended",
          },
        );
      }
      act(job);
      return Response.json(view(jobs.get(job.id)!));
    },
  });
  /** Answers with events of a job, or of all jobs (null); a stream of the latter begins with what comes next. */
  const answerEvents = ({ request, url, wait }: Asked, job: string | null): Response => {
    if (/\btext\/event-stream\b/.test(request.headers.get("accept") ?? "")) {
      wait();
      const seen = eventNumber(request.headers.get("last-event-id") ?? "");
      events.flush();
      const signal = AbortSignal.any([request.signal, options.shutdown]);
      return eventStream(events, jobs, job, seen ?? (job === null ? events.newest() : 0), signal);
    }
    const type = url.searchParams.get("type") ?? undefined;
    if (type !== undefined && type !== "message" && type !== "metrics")
      throw new ApiError(400, `type: expected message or metrics, got ${type}`, { param: "type", code: "invalid_value" });
    const page = events.list(job, { after: afterOf(url, eventNumber), limit: limitOf(url, 20, 1000), type });
    return Response.json(listOf({ ...page, data: page.data.map(eventView) }));
  };
  const path = "/v1/fine_tuning/jobs";
  return {
    [path]: {
      POST: { scope: train, handle: create },
      GET: {
        scope: train,
        handle({ url }) {
          const metadata = [...url.searchParams].flatMap(([key, value]) => {
            const name = /^metadata\[(.+)\]$/.exec(key)?.[1];
            return name === undefined ? [] : [[name, value] as const];
          });
          const page = jobs.list({
            after: afterOf(url, (id) => jobs.get(id)?.number ?? null),
            limit: limitOf(url, 20, 100),
            metadata: Object.fromEntries(metadata),
          });
          return Response.json(listOf({ ...page, data: page.data.map((job) => ({ ...view(job), id: job.id })) }));
        },
      },
    },
    [`${path}/:id`]: { GET: { scope: train, handle: (asked) => Response.json(view(found(asked))) } },
    [`${path}/:id/cancel`]: { POST: change("cancelled", queue.cancel) },
    [`${path}/:id/pause`]: { POST: change("paused", (job) => job.paused || queue.pause(job)) },
    [`${path}/:id/resume`]: { POST: change("resumed", (job) => job.paused && queue.resume(job)) },
    [`${path}/:id/events`]: { GET: { scope: train, handle: (asked) => answerEvents(asked, found(asked).id) } },
    // Beside the jobs, where no id is in its way: a page that shows them all has one connection for them.
    "/v1/fine_tuning/events": { GET: { scope: train, handle: (asked) => answerEvents(asked, null) } },
    [`${path}/:id/checkpoints`]: {
      GET: {
        scope: train,
        handle(asked) {
          const job = found(asked);
          const run = home.runOf(job.id);
          const lines = readMetrics(run);
          const saved = savedCheckpoints(run).reverse();
          const after = asked.url.searchParams.get("after");
          const from = after === null ? 0 : saved.findIndex(({ step }) => checkpointId(job.id, step) === after) + 1;
          const limit = limitOf(asked.url, 10, 100);
          const data = saved.slice(from, from + limit).map((each) => checkpointView(job, each, lines));
          return Response.json(listOf({ data, has_more: saved.length > from + limit }));
        },
      },
    },
  };
}

/** Checks a job and puts it into the queue. */
function createCreator(options: JobsApiOptions): (asked: Asked) => Promise<Response> {
  const { places, events, queue, registry } = options;
  const { jobs } = places;
  const again = (job: Job, hash: string): Response => {
    if (job.request_hash === hash) return Response.json(jobView(job, queue.progressOf(job.id)));
    throw new ApiError(409, `the ${IDEMPOTENCY} was used for another job, ${job.id}`, { code: "idempotency_key_reused" });
  };
  const create = async (asked: Asked, body: unknown, key: string | null): Promise<Response> => {
    const request = parseJobRequest(body);
    const hash = new Bun.CryptoHasher("sha256").update(JSON.stringify(body)).digest("hex");
    const known = key === null ? null : jobs.byKey(key);
    if (known) return again(known, hash);
    const model = registry.find(request.model);
    const chosen = settingsOf(request);
    const config = configOf(request, model, chosen, options);
    const { signal } = asked.request;
    const examination = await examined(config, options, signal);
    if (request.dry_run === true) return Response.json(await estimated(config, examination, options, signal));
    const job = jobs.insert(newJob(request, model, chosen, { config, examination, key, hash }));
    events.add(job.id, { message: `Created fine-tuning job: ${job.id}` });
    const { examples, tokens, steps } = examination;
    events.add(job.id, {
      message: `Files validated: ${examples} examples, ${tokens} tokens, ${steps} steps`,
      data: { ...examination },
    });
    examination.notes.forEach((note) => events.add(job.id, { message: forClients(places, note) }));
    events.flush();
    queue.wake();
    return Response.json(jobView(job, null));
  };
  return async (asked) => {
    const body = await readJson(asked.request);
    const key = asked.request.headers.get(IDEMPOTENCY);
    asked.wait();
    return options.lane(() => create(asked, body, key));
  };
}

/** @throws {ApiError} files that are not there, a model that cannot be gone on from */
export function configOf(
  request: JobRequest,
  model: KnownModel,
  { settings, chatTemplate }: JobSettings,
  { places, registry }: Pick<JobsApiOptions, "places" | "registry">,
): JobConfig {
  const file = (param: string, id: string | undefined | null): string | null => {
    if (id === undefined || id === null) return null;
    if (places.files.get(id) !== null) return id;
    throw new ApiError(400, `${param}: there is no file ${JSON.stringify(id.slice(0, 80))}; upload it first`, {
      param,
      code: "file_not_found",
    });
  };
  return {
    base: model.host.name,
    parent: registry.parentOf(model),
    training: file("training_file", request.training_file)!,
    validation: file("validation_file", request.validation_file),
    chatTemplate: file("remat.chat_template", chatTemplate),
    settings,
  };
}

/**
 * Reads and checks what the job would train on, in a process of its own.
 * @throws {ApiError} examples that are refused, by file and line; a job that never fits into memory
 */
async function examined(config: JobConfig, { places, mostForJobs }: JobsApiOptions, signal: AbortSignal): Promise<Examination> {
  const { files } = places;
  let examination: Examination;
  try {
    const { config: run, given } = trainConfigOf(places, places.home.runOf(DRY_RUN), config);
    examination = await examineApart(run, given, { signal });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    const names = (id: string | null) => id !== null && error.message.includes(files.get(id)?.sha256 ?? "\0");
    const param = names(config.training) ? "training_file" : names(config.validation) ? "validation_file" : null;
    const code = param === null ? "invalid_hyperparameters" : `invalid_${param}`;
    throw new ApiError(400, forClients(places, error.message), { param, code });
  }
  const there = mostForJobs();
  const need = needOf(examination.memory, there);
  if (need.least > there) {
    const text =
      `the job needs at least ${formatBytes(need.least)} of memory, and there are ${formatBytes(there)} for jobs; ` +
      "a shorter remat.sequence_length, a lower remat.rank or remat.quantize nf4 lower what it needs";
    throw new ApiError(400, text, { param: "remat.memory", code: "memory_limit" });
  }
  return examination;
}

/** Times a step of the job, trains nothing, and says what the whole job would take. */
async function estimated(
  config: JobConfig,
  examination: Examination,
  options: JobsApiOptions,
  signal: AbortSignal,
): Promise<object> {
  const { places } = options;
  const { examples, tokens, labelled, heldOut, steps, memory, notes } = examination;
  const timed = await timedStep(config, examination, options, signal);
  return {
    object: "fine_tuning.job.dry_run",
    examples,
    tokens,
    trained_tokens: labelled,
    held_out: heldOut,
    steps,
    seconds_per_step: timed ?? examination.secondsPerStep,
    minutes: (steps * (timed ?? examination.secondsPerStep)) / 60,
    // Without memory for a step of its own, its time is that of a model of an ordinary processor.
    timed: timed !== null,
    memory: { least: memory.least, most: memory.most, curve: memory.curve },
    notes: notes.map((note) => forClients(places, note)),
  };
}

/** The seconds of a step, by one that is made; null: jobs hold the memory for it. */
async function timedStep(
  config: JobConfig,
  { memory }: Examination,
  { places, ledger }: JobsApiOptions,
  signal: AbortSignal,
): Promise<number | null> {
  const budget = await borrow(ledger, DRY_RUN, needOf(memory, ledger.mostForJobs));
  if (budget === null) return null;
  try {
    const { config: run, given } = trainConfigOf(places, places.home.runOf(DRY_RUN), config);
    let seconds: number | null = null;
    const sink = (event: RunEvent) => {
      if (event.type === "estimate") seconds = event.secondsPerStep;
    };
    const limit = memory.asked === null ? { memory: `${Math.floor(budget / 2 ** 20)}MiB` } : {};
    await runApart({ ...run, dryRun: true, ...limit }, given, { sink, signal });
    return seconds;
  } finally {
    ledger.release(DRY_RUN);
  }
}

interface Checked {
  readonly config: JobConfig;
  readonly examination: Examination;
  readonly key: string | null;
  readonly hash: string;
}

/** Letters of a job's id in its model's name. */
const SHORT = 8;

function newJob(
  request: JobRequest,
  model: KnownModel,
  chosen: JobSettings,
  { config, examination, key, hash }: Checked,
): NewJob {
  const id = newId("ftjob");
  const base = model.host.name.split("/").at(-1)!.replaceAll(":", "-");
  const suffix = (request.suffix ?? "").replaceAll(/[^\w.-]/g, "-");
  const { memory, stepsPerEpoch } = examination;
  const given = config.settings;
  const settings = {
    ...given,
    // As OpenAI does: a checkpoint at the end of each pass over the data.
    ...(given.saveEvery === undefined && given.steps === undefined ? { saveEvery: stepsPerEpoch } : {}),
    // A share of what is free would be another limit when the job starts.
    ...(given.memory === undefined || memory.asked === null ? {} : { memory: `${Math.floor(memory.asked / 2 ** 20)}MiB` }),
  };
  return {
    id,
    base: config.base,
    parent: config.parent === null ? null : model.name,
    name: `ft:${base}:remat:${suffix}:${id.slice("ftjob-".length, "ftjob-".length + SHORT)}`,
    request: {
      model: request.model,
      suffix: request.suffix ?? null,
      seed: given.seed ?? 42,
      metadata: request.metadata ?? null,
      method: chosen.method,
      hyperparameters: chosen.hyperparameters,
    },
    config: { ...config, settings },
    examination,
    idempotency_key: key,
    request_hash: hash,
  };
}
