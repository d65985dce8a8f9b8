import { z } from "zod";
import { UserError } from "../../../base/errors.ts";
import { MESSAGE_COLUMNS } from "../../../data/examples/columns.ts";
import { COLUMNS } from "../../../data/examples/formats.ts";
import { describeNotice } from "../../../data/chat/notices.ts";
import type { DataReport } from "../../../data/samples/check.ts";
import { forClients, type JobPlaces, trainConfigOf } from "../../../jobs/job-config.ts";
import type { DataPreview, DataProblems } from "../../../page/api/types.ts";
import { previewApart } from "../../../train/apart/train-apart.ts";
import { readJson } from "../../http/body.ts";
import { ApiError, clientGone } from "../../http/errors.ts";
import { parseJobRequest, settingsOf } from "../job-requests.ts";
import { configOf } from "../jobs-api.ts";
import type { Registry } from "../registry.ts";
import type { Asked, HomeRoutes } from "../route.ts";
import type { Lane } from "./lane.ts";

export interface PreviewApiOptions {
  readonly places: JobPlaces;
  readonly registry: Registry;
  readonly lane: Lane;
}

const MOST_ROWS = 50;

const asksPreview = z.looseObject({
  from: z.int().min(1).default(1),
  count: z.int().min(1).max(MOST_ROWS).default(5),
  whole: z.boolean().default(false),
});

/** Shows examples of an uploaded file as the model sees them, and, with `whole`, everything that is wrong with the file. */
export function previewRoutes(options: PreviewApiOptions): HomeRoutes {
  return {
    "/v1/fine_tuning/preview": {
      POST: {
        scope: "train",
        async handle(asked) {
          const body = await readJson(asked.request);
          asked.wait();
          return options.lane(async () => Response.json(await preview(body, asked, options)));
        },
      },
    },
  };
}

async function preview(body: unknown, { request }: Asked, { places, registry }: PreviewApiOptions): Promise<DataPreview> {
  const { signal } = request;
  if (signal.aborted) throw clientGone();
  const wanted = asksPreview.safeParse(body);
  if (!wanted.success) {
    const issue = wanted.error.issues[0]!;
    const param = issue.path.map(String).join(".") || null;
    throw new ApiError(400, `${param ?? "the request's body"}: ${issue.message}`, { param, code: "invalid_value" });
  }
  const { from, count, whole, ...job } = wanted.data;
  const asked = parseJobRequest(job);
  const { config } = trainConfigOf(
    places,
    places.home.runOf("preview"),
    configOf(asked, registry.find(asked.model), settingsOf(asked), { places, registry }),
  );
  const clean = (text: string) => forClients(places, text);
  try {
    const { sequenceLength, columns, rows, report } = await previewApart(config, { from, count, whole }, { signal });
    return {
      object: "fine_tuning.preview",
      sequence_length: sequenceLength,
      columns,
      names: [...new Set([...COLUMNS, ...MESSAGE_COLUMNS])],
      rows: rows.map(({ number, where, samples, error }) => ({
        number,
        where: clean(where),
        samples: samples.map(({ tokens, trained, parts, isCut }) => ({ tokens, trained, parts, cut: isCut })),
        error: error === null ? null : clean(error),
      })),
      report: report && reportView(report, clean),
    };
  } catch (error) {
    if (signal.aborted) throw clientGone();
    if (!(error instanceof UserError)) throw error;
    throw new ApiError(400, clean(error.message), { param: "training_file", code: "invalid_training_file" });
  }
}

function reportView(report: DataReport, clean: (text: string) => string): NonNullable<DataPreview["report"]> {
  const problems = ({ count, first }: DataReport["errors"]): DataProblems => ({
    count,
    first: first.map(({ where, message }) => ({ where: clean(where), message: clean(message) })),
  });
  return {
    examples: report.examples,
    tokens: report.tokens && {
      samples: report.tokens.samples,
      total: report.tokens.total,
      trained: report.tokens.trained,
      longest: report.tokens.lengths.max,
      median: report.tokens.lengths.p50,
    },
    unused: report.unused,
    notices: report.notices.map((notice) => clean(describeNotice(notice))),
    errors: problems(report.errors),
    duplicates: problems(report.duplicates),
    over_long: problems(report.overLong),
  };
}
