import type { Database } from "bun:sqlite";
import { existsSync, readdirSync, realpathSync, statSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { baseModelOf } from "../../hf/peft/adapter-config.ts";
import { CONFIG_FILE } from "../../hf/peft/adapter-folder.ts";
import { adapterFolder, checkpointModel, type JobPlaces, parentOf } from "../../jobs/job-config.ts";
import type { Job, Parent } from "../../jobs/job-store.ts";
import { now } from "../../jobs/home/home.ts";
import { savedCheckpoints } from "../../train/run/checkpoint.ts";
import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import type { Host } from "../hosts/host.ts";
import { ApiError } from "../http/errors.ts";

/** A model that clients can name. */
export interface KnownModel {
  readonly name: string;
  readonly host: Host;
  /** The folder of its adapter; null: the base model. */
  readonly adapter: string | null;
  readonly created: number;
  /** The reason why it is known. */
  readonly source:
    | { readonly kind: "base" }
    | { readonly kind: "job"; readonly job: Job; readonly step: number | null }
    | { readonly kind: "folder" }
    | { readonly kind: "loaded" };
}

/** All models by their names, as they are at the moment: what a job has made is there as soon as the job has ended. */
export interface Registry {
  readonly hosts: readonly Host[];
  list(): KnownModel[];
  /** @throws {ApiError} there is none of the name */
  find(name: string): KnownModel;
  /** The model of requests that name none. @throws {ApiError} several base models are served */
  fallback(): KnownModel;
  /** Returns what a job begins with that goes on from a model; null: the base model's own weights. */
  parentOf(model: KnownModel): Parent | null;
  /** Makes an adapter known by a name. @throws {ApiError} */
  load(name: string, folder: string): KnownModel;
  unload(name: string): boolean;
  /** The folder of an adapter that no job has made. */
  adapterOf(name: string): string | null;
  /** The base model that an adapter is for. @throws {UserError} */
  hostOf(adapter: string): Host;
}

export interface RegistryOptions {
  readonly database: Database;
  readonly hosts: readonly Host[];
  /** The folder of `--adapters`; null: none. */
  readonly adapters: string | null;
  readonly started: number;
}

/** @param places of the jobs: they need the registry's `adapterOf`, so that they come behind it */
export function createRegistry(options: RegistryOptions, places: () => JobPlaces): Registry {
  const { database, hosts, adapters, started } = options;
  const hostNamed = (name: string) => hosts.find((host) => host.name === name);

  const hostOf = (adapter: string): Host => {
    const base = baseModelOf(adapter);
    const real = (path: string) => (existsSync(path) ? realpathSync(path) : resolve(path));
    const found = base === null ? undefined : hosts.find(({ name, model }) => name === base || real(model.folder) === real(base));
    const named = found ?? (base === null ? undefined : hosts.find(({ name }) => basename(name) === basename(base)));
    const host = named ?? (hosts.length === 1 ? hosts[0] : undefined);
    if (host) return host;
    throw new UserError(
      `the adapter is of the base model ${show(base)}, which is not one of ${hosts.map(({ name }) => name).join(", ")}`,
    );
  };

  const loadedOf = (name: string): { path: string; created_at: number } | null =>
    database.query("SELECT path, created_at FROM adapters WHERE name = ?").get(name) as never;

  const folderOf = (name: string): string | null => {
    if (adapters === null || !/^[^/\\]+$/.test(name) || name.startsWith(".")) return null;
    const folder = join(adapters, name);
    return existsSync(join(folder, CONFIG_FILE)) ? folder : null;
  };

  const ofFolder = (name: string, folder: string, created: number, kind: "folder" | "loaded"): KnownModel | null => {
    try {
      return { name, host: hostOf(folder), adapter: folder, created, source: { kind } };
    } catch {
      // One that cannot be used is not offered.
      return null;
    }
  };

  const ofJob = (job: Job, step: number | null): KnownModel | null => {
    const host = hostNamed(job.base);
    if (!host || job.kept === "nothing" || (step === null && job.status !== "succeeded")) return null;
    try {
      const adapter = adapterFolder(places(), { kind: "job", job: job.id, step });
      const name = step === null ? job.name : checkpointModel(job, step);
      return { name, host, adapter, created: job.finished_at ?? job.created_at, source: { kind: "job", job, step } };
    } catch {
      return null;
    }
  };

  const base = (host: Host): KnownModel => ({ name: host.name, host, adapter: null, created: started, source: { kind: "base" } });

  const lookUp = (name: string): KnownModel | null => {
    const host = hostNamed(name);
    if (host) return base(host);
    const parent = parentOf(places().jobs, name);
    if (parent) return ofJob(parent.job, parent.step);
    const loaded = loadedOf(name);
    if (loaded) return ofFolder(name, loaded.path, loaded.created_at, "loaded");
    const folder = folderOf(name);
    return folder === null ? null : ofFolder(name, folder, started, "folder");
  };

  const registry: Registry = {
    hosts,
    hostOf,
    list() {
      const { jobs, home } = places();
      const ofJobs = jobs
        .withStatus("succeeded", "cancelled", "failed", "running", "queued")
        .filter(({ kept }) => kept !== "nothing")
        .flatMap((job) => [ofJob(job, null), ...savedCheckpoints(home.runOf(job.id)).map(({ step }) => ofJob(job, step))]);
      const rows = database.query("SELECT name, path, created_at FROM adapters ORDER BY name").all() as {
        readonly name: string;
        readonly path: string;
        readonly created_at: number;
      }[];
      const loaded = rows.map(({ name, path, created_at }) => ofFolder(name, path, created_at, "loaded"));
      const names = adapters === null || !existsSync(adapters) ? [] : readdirSync(adapters).sort();
      const folders = names.map((name) => {
        const folder = folderOf(name);
        return folder === null ? null : ofFolder(name, folder, Math.floor(statSync(folder).mtimeMs / 1000), "folder");
      });
      const all = [...hosts.map(base), ...ofJobs, ...loaded, ...folders].filter((model) => model !== null);
      return [...new Map(all.toReversed().map((model) => [model.name, model])).values()].reverse();
    },
    find(name) {
      const model = lookUp(name);
      if (model) return model;
      throw new ApiError(404, `there is no model ${show(name)} here; GET /v1/models lists those that there are`, {
        param: "model",
        code: "model_not_found",
      });
    },
    fallback() {
      const [host, ...others] = hosts;
      if (host && others.length === 0) return base(host);
      throw new ApiError(400, `model: it is missing; there are ${hosts.map(({ name }) => name).join(", ")}`, {
        param: "model",
        code: "invalid_value",
      });
    },
    parentOf({ name, source }) {
      if (source.kind === "base") return null;
      return source.kind === "job" ? { kind: "job", job: source.job.id, step: source.step } : { kind: "adapter", name };
    },
    load(name, folder) {
      if (lookUp(name)) throw new ApiError(400, `the name ${show(name)} is taken`, { param: "lora_name", code: "invalid_value" });
      database.run("INSERT INTO adapters (name, path, created_at) VALUES (?, ?, ?)", [name, folder, now()]);
      return registry.find(name);
    },
    unload(name) {
      const loaded = loadedOf(name);
      if (!loaded) return false;
      database.run("DELETE FROM adapters WHERE name = ?", [name]);
      for (const host of hosts) host.drop(loaded.path);
      return true;
    },
    adapterOf: (name) => loadedOf(name)?.path ?? folderOf(name),
  };
  return registry;
}
