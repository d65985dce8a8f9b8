import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { CONFIG_FILE } from "../../hf/peft/adapter-folder.ts";
import { isInside } from "../../jobs/home/home.ts";
import { parentsInUse, removeRun } from "../../jobs/retention.ts";
import type { JobPlaces } from "../../jobs/job-config.ts";
import { openFound } from "../../load/open-model.ts";
import { readJson } from "../http/body.ts";
import { ApiError, refusing } from "../http/errors.ts";
import { decoded } from "../http/routes.ts";
import { notFound } from "./lists.ts";
import type { KnownModel, Registry } from "./registry.ts";
import type { HomeRoutes } from "./route.ts";

/** Names of adapters that a client may give: as model names are, and no paths. */
const adapterName = z
  .string()
  .max(128)
  .regex(/^\w[\w.:@-]*(?:\/\w[\w.:@-]*)*$/, { error: "expected letters, digits and . _ : @ - with / between them" });

const loadRequest = z.object({ lora_name: adapterName, lora_path: z.string().min(1).max(4096) });
const unloadRequest = z.object({ lora_name: z.string().min(1) });

/** https://platform.openai.com/docs/api-reference/models, and vLLM's way to load adapters (https://docs.vllm.ai/en/latest/features/lora.html). */
export function modelRoutes(registry: Registry, places: JobPlaces, adapters: string | null): HomeRoutes {
  return {
    "/v1/models": {
      GET: { scope: "infer", handle: () => Response.json({ object: "list", data: registry.list().map(viewOf) }) },
    },
    "/v1/models/*name": {
      GET: { scope: "infer", handle: ({ params }) => Response.json(viewOf(registry.find(decoded(params["name"]!)))) },
      DELETE: {
        scope: "train",
        handle: ({ params }) => {
          const model = registry.find(decoded(params["name"]!));
          remove(model, registry, places);
          return Response.json({ id: model.name, object: "model", deleted: true });
        },
      },
    },
    "/v1/load_lora_adapter": {
      POST: {
        scope: "admin",
        handle: async ({ request }) => {
          const { lora_name: name, lora_path: path } = parse(loadRequest, await readJson(request));
          const folder = resolve(adapters ?? places.home.folder, path);
          const isAllowed = [adapters, join(places.home.folder, "runs")].some((root) => root !== null && isInside(folder, root));
          if (!isAllowed || !existsSync(join(folder, CONFIG_FILE)))
            throw invalid("lora_path", "expected the folder of an adapter inside --adapters or the home's runs");
          refusing("lora_path", "invalid_value", () => {
            const { name: base, folder: at } = registry.hostOf(folder).model;
            openFound({ name: base, folder: at, adapter: folder }, { predicts: "anything" }).close();
          });
          registry.load(name, folder);
          return new Response(`Success: LoRA adapter '${name}' added successfully.`);
        },
      },
    },
    "/v1/unload_lora_adapter": {
      POST: {
        scope: "admin",
        handle: async ({ request }) => {
          const { lora_name: name } = parse(unloadRequest, await readJson(request));
          if (!registry.unload(name)) throw notFound("loaded adapter", name, "lora_name");
          return new Response(`Success: LoRA adapter '${name}' removed successfully.`);
        },
      },
    },
  };
}

/** `root` and `parent` are vLLM's. */
function viewOf({ name, host, adapter, created, source }: KnownModel): object {
  const root = source.kind === "job" ? source.job.id : name;
  return { id: name, object: "model", created, owned_by: "remat", root, parent: adapter === null ? null : host.name };
}

/** @throws {ApiError} a model that is not the server's to delete */
function remove({ name, host, adapter, source }: KnownModel, registry: Registry, places: JobPlaces): void {
  const refuse = (message: string) => new ApiError(400, message, { param: "model", code: "invalid_value" });
  switch (source.kind) {
    case "base":
      throw refuse(`${name} is a base model; the server is started without it`);
    case "folder":
      throw refuse(`${name} is a folder of --adapters; remove the folder`);
    case "loaded":
      registry.unload(name);
      return;
    case "job": {
      const { job, step } = source;
      if (step !== null) throw refuse(`${name} is a checkpoint of ${job.id}, and goes with the job's model ${job.name}`);
      if (parentsInUse(places).has(job.id))
        throw new ApiError(409, `a job goes on from ${name}; cancel it first`, { code: "model_in_use" });
      removeRun(places, job);
      host.drop(adapter!);
    }
  }
}

const invalid = (param: string, message: string) => new ApiError(400, `${param}: ${message}`, { param, code: "invalid_value" });

function parse<T>(schema: z.ZodType<T>, body: unknown): T {
  const result = schema.safeParse(body);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  throw invalid(issue.path.map(String).join(".") || "body", issue.message);
}
