import type { JobStore } from "../../../jobs/job-store.ts";
import type { Train } from "../../../jobs/worker.ts";
import type { Federation, FederationDetail, FleetNode, JobTraffic, Traffic } from "../../../page/api/types.ts";
import { ApiError } from "../../http/errors.ts";
import { listOf, notFound } from "../lists.ts";
import type { HomeRoutes } from "../route.ts";

/** Machines that jobs train on. */
export interface HomeFleet {
  readonly train: Train;
  /** Bytes that a job may take where there is most for it; null: there is no machine at present. */
  mostForJobs(): number | null;
  /** Everything that is known of each machine. */
  nodes(): readonly FleetNode[];
  /** Returns what machines have sent and received for a job. */
  trafficOf(job: string): Traffic;
  readonly federations: HomeFederations;
}

/** Federations whose coordinators use the fleet's NATS server. */
export interface HomeFederations {
  /** All, the newest first. */
  list(): Promise<readonly Federation[]>;
  /** One with its rounds behind a number; null: there is none of this id. */
  find(id: string, after: number): Promise<FederationDetail | null>;
  /** Forgets one that nobody leads. */
  remove(id: string): Promise<"removed" | "missing" | "running">;
}

/** Number of a round behind which the others are asked for. @throws {ApiError} */
function afterOf(url: URL): number {
  const text = url.searchParams.get("after") ?? "0";
  const after = Number(text);
  if (Number.isInteger(after) && after >= 0) return after;
  throw new ApiError(400, `after: expected the number of a round, got ${text}`, { param: "after", code: "invalid_value" });
}

/** The machines that jobs train on, what goes over the network for each, and the rounds of federations. */
export function fleetRoutes(fleet: HomeFleet | undefined, jobs: JobStore): HomeRoutes {
  const federation = async <T>(id: string, act: (all: HomeFederations) => Promise<T | null>): Promise<T> => {
    const found = fleet ? await act(fleet.federations) : null;
    if (found === null) throw notFound("federation", id);
    return found;
  };
  return {
    "/v1/nodes": {
      GET: {
        scope: "train",
        handle: () => Response.json({ ...listOf({ data: fleet?.nodes() ?? [], has_more: false }), fleet: fleet !== undefined }),
      },
    },
    "/v1/fine_tuning/jobs/:id/traffic": {
      GET: {
        scope: "train",
        handle({ params }) {
          const id = params["id"]!;
          if (jobs.get(id) === null) throw notFound("fine-tuning job", id);
          const traffic = fleet?.trafficOf(id) ?? {};
          return Response.json({ object: "fine_tuning.traffic", fleet: fleet !== undefined, traffic } satisfies JobTraffic);
        },
      },
    },
    "/v1/federations": {
      GET: {
        scope: "train",
        handle: async () => Response.json(listOf({ data: (await fleet?.federations.list()) ?? [], has_more: false })),
      },
    },
    "/v1/federations/:id": {
      GET: {
        scope: "train",
        handle: async ({ url, params }) => {
          const after = afterOf(url);
          return Response.json(await federation(params["id"]!, (all) => all.find(params["id"]!, after)));
        },
      },
      DELETE: {
        scope: "train",
        async handle({ params }) {
          const id = params["id"]!;
          const how = await federation(id, async (all) => all.remove(id));
          if (how === "missing") throw notFound("federation", id);
          if (how === "running")
            throw new ApiError(409, `the federation ${id} is led at present; end its coordinator before`, { code: "running" });
          return Response.json({ id, object: "federation", deleted: true });
        },
      },
    },
  };
}
