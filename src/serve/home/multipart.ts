import { ApiError } from "../http/errors.ts";

/** Takes the parts of a form as they come. A part's bytes may come in any pieces. */
export interface FormReader {
  /** @param filename null for a field that is no file */
  begin(name: string, filename: string | null): void;
  write(piece: Uint8Array): void;
  end(): void;
}

/** Bytes of the lines in front of a part, at most. */
const MOST_HEAD = 8192;

const bad = (what: string) => new ApiError(400, `the form cannot be read: ${what}`, { code: "invalid_form" });

/**
 * Reads a form (multipart/form-data, https://www.rfc-editor.org/rfc/rfc7578) piece by piece, so that no file in it is ever in memory.
 * @throws {ApiError} what is no such form; whatever `reader` throws
 */
export async function readForm(request: Request, reader: FormReader): Promise<void> {
  const type = request.headers.get("content-type") ?? "";
  const [, quoted, plain] = /^multipart\/form-data\s*;.*?boundary=(?:"([^"]+)"|([^;\s]+))/i.exec(type) ?? [];
  const boundary = quoted ?? plain;
  if (boundary === undefined || boundary.length > 200) {
    throw new ApiError(415, `expected Content-Type: multipart/form-data with a boundary, got ${type === "" ? "none" : type}`, {
      code: "unsupported_media_type",
    });
  }
  const mark = Buffer.from(`\r\n--${boundary}`, "latin1");
  // The first mark has no line in front of it.
  let held: Buffer = Buffer.from("\r\n");
  let state: "preamble" | "head" | "body" | "over" = "preamble";
  for await (const piece of request.body ?? []) {
    if (state === "over") continue;
    held = Buffer.concat([held, piece]);
    for (;;) {
      if (state === "head") {
        // What follows a mark: two strokes at the end of the form, else a line's end and the part's own lines.
        if (held.length < 2) break;
        if (held.subarray(0, 2).toString("latin1") === "--") {
          state = "over";
          break;
        }
        const end = held.indexOf("\r\n\r\n");
        if (end < 0) {
          if (held.length > MOST_HEAD) throw bad(`a part has more than ${MOST_HEAD} bytes of lines in front of it`);
          break;
        }
        const { name, filename } = headOf(held.subarray(0, end).toString("utf8"));
        held = held.subarray(end + 4);
        reader.begin(name, filename);
        state = "body";
        continue;
      }
      const at = held.indexOf(mark);
      if (at < 0) {
        // The mark may begin in what is there.
        const sure = Math.max(0, held.length - mark.length + 1);
        if (state === "body" && sure > 0) reader.write(held.subarray(0, sure));
        held = held.subarray(sure);
        break;
      }
      if (state === "body") {
        if (at > 0) reader.write(held.subarray(0, at));
        reader.end();
      }
      held = held.subarray(at + mark.length);
      state = "head";
    }
  }
  if (state !== "over") throw bad("it ends in the middle");
}

function headOf(text: string): { readonly name: string; readonly filename: string | null } {
  const line = /^content-disposition:\s*form-data\s*;(.*)$/im.exec(text)?.[1];
  const value = (key: string) => {
    const found = new RegExp(`(?:^|;)\\s*${key}="((?:[^"\\\\]|\\\\.)*)"`, "i").exec(line ?? "")?.[1];
    return found?.replaceAll(/\\(.)/g, "$1").replaceAll("%22", '"') ?? null;
  };
  const name = value("name");
  if (name === null) throw bad("a part has no name");
  return { name, filename: value("filename") };
}
