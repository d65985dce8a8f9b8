import { needsExact, readExactly } from "../../base/exact-json.ts";
import { isRecord, parseJson } from "../../base/json.ts";
import { ApiError, refusing } from "./errors.ts";

/** Bytes of a request of JSON. The longest context, written in any language, is shorter. */
export const MOST_BYTES = 4 * 1024 * 1024;

/**
 * The body, as JSON. A web page may send other types to any server without asking it, JSON only where `--cors` lets it.
 * @throws {ApiError}
 */
export async function readJson(request: Request): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(?:;|$)/i.test(type)) {
    throw new ApiError(415, `expected Content-Type: application/json, got ${type === "" ? "none" : type}`, {
      code: "unsupported_media_type",
    });
  }
  const tooLarge = () => new ApiError(413, `the request is larger than ${MOST_BYTES} bytes`, { code: "request_too_large" });
  if (Number(request.headers.get("content-length") ?? 0) > MOST_BYTES) throw tooLarge();
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of request.body ?? []) {
    bytes += piece.byteLength;
    if (bytes > MOST_BYTES) throw tooLarge();
    pieces.push(piece);
  }
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true }).decode(Buffer.concat(pieces));
  } catch {
    throw new ApiError(400, "the request's body is not UTF-8", { code: "invalid_json" });
  }
  const body = refusing(null, "invalid_json", () => parseJson(text, "the request's body"));
  return withExactParts(body, text);
}

/** Gives the parts of a body that templates print their numbers and keys as they are written; the body's own numbers stay JavaScript's. */
function withExactParts(body: unknown, text: string): unknown {
  if (!isRecord(body)) return body;
  const parts = ["messages", "tools", "chat_template_kwargs"].filter((name) => needsExact(body[name]));
  if (parts.length === 0) return body;
  const exact = readExactly(text) as Readonly<Record<string, unknown>>;
  return { ...body, ...Object.fromEntries(parts.map((name) => [name, exact[name]])) };
}
