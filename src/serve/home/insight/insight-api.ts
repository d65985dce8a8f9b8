import type { EventLog } from "../../../jobs/events.ts";
import type { JobPlaces } from "../../../jobs/job-config.ts";
import type { Job } from "../../../jobs/job-store.ts";
import type { Ledger } from "../../../jobs/ledger.ts";
import type { Host } from "../../hosts/host.ts";
import { ApiError } from "../../http/errors.ts";
import { notFound } from "../lists.ts";
import type { Asked, HomeRoutes } from "../route.ts";
import { boxMemory } from "./box-memory.ts";
import { metricsTableOf } from "./metrics-table.ts";
import { configOf, reportOf } from "./run-report.ts";

export interface InsightOptions {
  readonly places: JobPlaces;
  readonly events: EventLog;
  readonly ledger: Ledger;
  readonly hosts: readonly Host[];
}

/** Each how-manieth step is wanted. @throws {ApiError} */
function everyOf(url: URL): number {
  const text = url.searchParams.get("every") ?? "1";
  const every = Number(text);
  if (Number.isInteger(every) && every >= 1 && every <= 1e9) return every;
  throw new ApiError(400, `every: expected a whole number from 1 on, got ${text}`, { param: "every", code: "invalid_value" });
}

/** What OpenAI's API has no requests for: the numbers, the plan and the configuration of a job, the memory of the box. */
export function insightRoutes({ places, events, ledger, hosts }: InsightOptions): HomeRoutes {
  const found = ({ params }: Asked): Job => {
    const job = places.jobs.get(params["id"]!);
    if (job === null) throw notFound("fine-tuning job", params["id"]!);
    return job;
  };
  const job = "/v1/fine_tuning/jobs/:id";
  return {
    [`${job}/metrics`]: {
      GET: { scope: "train", handle: (asked) => metricsTableOf(events, found(asked).id, everyOf(asked.url)) },
    },
    [`${job}/report`]: {
      GET: {
        scope: "train",
        handle(asked) {
          const report = reportOf(places, found(asked));
          if (report !== null) return Response.json(report);
          throw new ApiError(404, `the job ${asked.params["id"]!} has no run folder, or has not begun to train`, {
            code: "no_report",
          });
        },
      },
    },
    [`${job}/config`]: {
      GET: {
        scope: "train",
        handle: async (asked) =>
          new Response(await configOf(places, found(asked)), {
            headers: { "content-type": "application/yaml; charset=utf-8", "x-content-type-options": "nosniff" },
          }),
      },
    },
    "/v1/memory": { GET: { scope: "train", handle: () => Response.json(boxMemory(ledger, hosts, places.home)) } },
  };
}
