import type { FileRecord, FileStore, Purpose, Upload } from "../../jobs/home/files.ts";
import type { JobStore } from "../../jobs/job-store.ts";
import { ApiError } from "../http/errors.ts";
import { afterOf, limitOf, listOf, notFound } from "./lists.ts";
import { readForm } from "./multipart.ts";
import type { HomeRoutes } from "./route.ts";

/** Bytes of an uploaded file, at most: OpenAI's limit. */
export const MOST_UPLOAD = 512 * 2 ** 20;
/** Bytes of any other field of the form. */
const MOST_FIELD = 4096;
const LONGEST_NAME = 255;
const MOST_FILES = 10_000;

const UPLOADED: readonly Purpose[] = ["fine-tune"];

/** https://platform.openai.com/docs/api-reference/files */
export function fileRoutes(files: FileStore, jobs: JobStore): HomeRoutes {
  const found = (id: string): FileRecord => {
    const file = files.get(id);
    if (file === null) throw notFound("file", id);
    return file;
  };
  return {
    "/v1/files": {
      POST: {
        scope: "train",
        handle: async ({ request, wait }) => {
          wait();
          files.expire(jobs.needsFile);
          return Response.json(viewOf(await upload(request, files)));
        },
      },
      GET: {
        scope: "train",
        handle({ url }) {
          const order = url.searchParams.get("order") ?? "desc";
          if (order !== "asc" && order !== "desc")
            throw new ApiError(400, `order: expected asc or desc, got ${order}`, { param: "order", code: "invalid_value" });
          const page = files.list({
            after: afterOf(url, (id) => files.get(id)?.number ?? null),
            limit: limitOf(url, MOST_FILES, MOST_FILES),
            order,
            purpose: url.searchParams.get("purpose"),
          });
          return Response.json(listOf({ ...page, data: page.data.map(viewOf) }));
        },
      },
    },
    "/v1/files/:id": {
      GET: { scope: "train", handle: ({ params }) => Response.json(viewOf(found(params["id"]!))) },
      DELETE: {
        scope: "train",
        handle({ params }) {
          const file = found(params["id"]!);
          if (jobs.needsFile(file.id)) {
            throw new ApiError(409, `a job that has not ended reads ${file.id}; cancel it first`, { code: "file_in_use" });
          }
          files.delete(file);
          return Response.json({ id: file.id, object: "file", deleted: true });
        },
      },
    },
    "/v1/files/:id/content": {
      GET: {
        scope: "train",
        handle: ({ params }) =>
          new Response(Bun.file(files.pathOf(found(params["id"]!))), {
            headers: { "content-type": "application/octet-stream", "x-content-type-options": "nosniff" },
          }),
      },
    },
  };
}

export function viewOf({ id, bytes, created_at, expires_at, filename, purpose }: FileRecord) {
  return {
    id,
    object: "file",
    bytes,
    created_at,
    filename,
    purpose,
    status: "processed",
    status_details: null,
    ...(expires_at === null ? {} : { expires_at }),
  };
}

async function upload(request: Request, files: FileStore): Promise<FileRecord> {
  const fields = new Map<string, string>();
  let file: Upload | null = null;
  let filename = "";
  let field: { readonly name: string; text: string } | null = null;
  const decoder = new TextDecoder();
  try {
    await readForm(request, {
      begin(name, given) {
        field = null;
        if (name !== "file") field = { name, text: "" };
        else if (file !== null) throw invalid("file", "one file at a time is taken");
        else {
          file = files.begin();
          filename = nameOf(given);
        }
      },
      write(piece) {
        if (field !== null) {
          field.text += decoder.decode(piece);
          if (field.text.length > MOST_FIELD) throw invalid(field.name.slice(0, 80), `it is longer than ${MOST_FIELD} bytes`);
          return;
        }
        if (file!.bytes + piece.length > MOST_UPLOAD) {
          throw new ApiError(413, `the file is larger than ${MOST_UPLOAD / 2 ** 20} MiB`, {
            param: "file",
            code: "file_too_large",
          });
        }
        file!.write(piece);
      },
      end() {
        if (field !== null) fields.set(field.name, field.text);
      },
    });
    const whole = file as Upload | null;
    if (whole === null) throw invalid("file", "it is missing");
    if (whole.bytes === 0) throw invalid("file", "it is empty");
    return whole.finish({ filename, purpose: purposeOf(fields), lifetime: lifetimeOf(fields) });
  } catch (error) {
    (file as Upload | null)?.discard();
    throw error;
  }
}

const invalid = (param: string, message: string) => new ApiError(400, `${param}: ${message}`, { param, code: "invalid_value" });

/** A name for people to read: it is never a path. */
function nameOf(given: string | null): string {
  const name = (given ?? "")
    .split(/[/\\]/)
    .at(-1)!
    .replaceAll(/\p{Cc}/gu, "")
    .slice(-LONGEST_NAME);
  return name === "" ? "upload" : name;
}

function purposeOf(fields: ReadonlyMap<string, string>): Purpose {
  const purpose = fields.get("purpose");
  if (UPLOADED.includes(purpose as Purpose)) return purpose as Purpose;
  throw invalid(
    "purpose",
    `expected ${UPLOADED.join(" or ")}, got ${purpose === undefined ? "nothing" : JSON.stringify(purpose)}`,
  );
}

/** Seconds that a file is kept; null: until it is deleted. */
function lifetimeOf(fields: ReadonlyMap<string, string>): number | null {
  const [anchor, seconds] = [fields.get("expires_after[anchor]"), fields.get("expires_after[seconds]")];
  if (anchor === undefined && seconds === undefined) return null;
  if (anchor !== "created_at") throw invalid("expires_after", 'expected the anchor "created_at"');
  const lifetime = Number(seconds);
  if (Number.isInteger(lifetime) && lifetime >= 3600 && lifetime <= 2_592_000) return lifetime;
  throw invalid("expires_after", "expected from 3600 to 2592000 seconds");
}
