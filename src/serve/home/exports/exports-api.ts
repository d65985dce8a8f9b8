import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { z } from "zod";
import { systemCode, UserError } from "../../../base/errors.ts";
import { formatBytes } from "../../../base/bytes.ts";
import { type Tar, tarOf } from "../../../base/files/tar.ts";
import { now } from "../../../jobs/home/home.ts";
import { forClients, type JobPlaces } from "../../../jobs/job-config.ts";
import { borrow, type Ledger } from "../../../jobs/ledger.ts";
import { elements } from "../../../graph/types.ts";
import type { OpenModel } from "../../../load/open-model.ts";
import type { Export } from "../../../page/api/types.ts";
import { readJson } from "../../http/body.ts";
import { ApiError, clientGone } from "../../http/errors.ts";
import type { Lane } from "../insight/lane.ts";
import { notFound } from "../lists.ts";
import type { Registry } from "../registry.ts";
import type { Asked, HomeRoutes } from "../route.ts";
import { emptyFolder, exportModel, FORMATS, GGUF_TYPES } from "./exporter.ts";

export interface ExportsApiOptions {
  readonly places: JobPlaces;
  readonly registry: Registry;
  readonly ledger: Ledger;
  readonly lane: Lane;
}

const exportRequest = z.strictObject({
  model: z.string().min(1).max(300),
  format: z.enum(FORMATS),
  type: z.enum(GGUF_TYPES).default("f16"),
});

/** Seconds that an export can be fetched, and exports that are kept at a time: each takes as much of the disk as the model. */
const LIFETIME = 3600;
const MOST_KEPT = 4;

/** The name by which an export holds memory, where jobs have their ids. */
const HOLDER = "export";

/**
 * Bytes for each element of the largest tensor: the tensor as it is stored, in f32, with what is added to it, and converted again, and as much of the
 * tensors before it that has not been collected yet. 29 were measured of a merged model, 41 of a GGUF file.
 */
const BYTES_PER_ELEMENT = 44;

/** Bytes that an export takes besides those that are set aside for one process. */
function exportBytes({ source }: Pick<OpenModel, "source">): number {
  return BYTES_PER_ELEMENT * Math.max(...[...source.tensors.values()].map(({ shape }) => elements(shape)));
}

/** An export that waits to be fetched. */
interface Kept {
  readonly folder: string;
  readonly view: Export;
  /** The hash of the secret in its address, which a browser's download has in the place of a key. */
  readonly ticket: Buffer;
  /** The file itself, or several as an archive. */
  readonly content: { readonly file: string } | { readonly archive: Tar };
}

/** Models to take away: written on the server, then fetched by an address that only those know who asked for it. */
export function exportRoutes({ places, registry, ledger, lane }: ExportsApiOptions): HomeRoutes {
  const root = join(places.home.folder, "exports");
  // What an earlier server wrote has addresses that nobody knows any more.
  rmSync(root, { recursive: true, force: true });
  const kept = new Map<string, Kept>();
  const drop = (id: string) => {
    const gone = kept.get(id);
    kept.delete(id);
    if (gone) rmSync(gone.folder, { recursive: true, force: true });
  };
  const expire = (most: number) => {
    for (const [id, { view }] of kept) if (view.expires_at <= now() || kept.size > most) drop(id);
  };

  const make = async (body: unknown, { request: { signal } }: Asked): Promise<Export> => {
    if (signal.aborted) throw clientGone();
    const parsed = exportRequest.safeParse(body);
    if (!parsed.success) {
      const issue = parsed.error.issues[0]!;
      const param = issue.path.map(String).join(".") || null;
      throw new ApiError(400, `${param ?? "the request's body"}: ${issue.message}`, { param, code: "invalid_value" });
    }
    const { model: name, format, type } = parsed.data;
    const model = registry.find(name);
    const need = format === "peft" ? 0 : exportBytes(model.host.model);
    if ((await borrow(ledger, HOLDER, { least: need, most: need })) === null) {
      throw new ApiError(503, `the export takes ${formatBytes(need)} of memory, which jobs hold; try it again later`, {
        code: "memory_limit",
        headers: { "retry-after": "60" },
      });
    }
    expire(MOST_KEPT - 1);
    const id = `export-${randomBytes(12).toString("hex")}`;
    const folder = join(root, id);
    emptyFolder(folder);
    try {
      const base = places.bases.get(model.host.name)!;
      const written = await exportModel({ model, base, format, type, folder, signal });
      const [single] = written.files;
      const content: Kept["content"] =
        format === "gguf"
          ? { file: join(written.folder, single!) }
          : { archive: tarOf(written.folder, written.files, written.name) };
      const secret = randomBytes(32).toString("base64url");
      const view: Export = {
        id,
        object: "export",
        model: name,
        format,
        filename: "file" in content ? single! : `${written.name}.${format}.tar`,
        bytes: "file" in content ? statSync(content.file).size : content.archive.bytes,
        url: `v1/exports/${id}/content?ticket=${secret}`,
        expires_at: now() + LIFETIME,
      };
      kept.set(id, { folder, view, ticket: hashOf(secret), content });
      return view;
    } catch (error) {
      rmSync(folder, { recursive: true, force: true });
      if (signal.aborted) throw clientGone();
      if (!(error instanceof UserError) || systemCode(error) === "ENOSPC") throw error;
      throw new ApiError(400, forClients(places, error.message), { param: "format", code: "invalid_value" });
    } finally {
      ledger.release(HOLDER);
    }
  };

  const fetchable = ({ params, url }: Asked): Kept => {
    expire(MOST_KEPT);
    const found = kept.get(params["id"]!);
    const isKnown = found !== undefined && timingSafeEqual(hashOf(url.searchParams.get("ticket") ?? ""), found.ticket);
    if (isKnown) return found;
    throw notFound("export", params["id"]!);
  };

  return {
    "/v1/exports": {
      POST: {
        scope: "train",
        async handle(asked) {
          const body = await readJson(asked.request);
          asked.wait();
          return lane(async () => Response.json(await make(body, asked)));
        },
      },
    },
    "/v1/exports/:id/content": {
      GET: {
        scope: "anyone",
        handle(asked) {
          const { view, content } = fetchable(asked);
          asked.wait();
          const headers = {
            "content-type": "application/octet-stream",
            "content-disposition": `attachment; filename="${view.filename}"`,
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
          };
          if ("file" in content) return new Response(Bun.file(content.file), { headers });
          return new Response(streamOf(content.archive), { headers: { ...headers, "content-length": String(view.bytes) } });
        },
      },
    },
  };
}

const hashOf = (secret: string): Buffer => createHash("sha256").update(secret).digest();

function streamOf(archive: Tar): ReadableStream<Uint8Array> {
  const pieces = archive.pieces();
  return new ReadableStream<Uint8Array>({
    async pull(controller) {
      const { done, value } = await pieces.next();
      if (done === true) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => void pieces.return(undefined),
  });
}
