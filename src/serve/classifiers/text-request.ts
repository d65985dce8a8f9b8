import type { z } from "zod";
import { show } from "../../base/json.ts";
import type { Sample } from "../../data/samples/sample.ts";
import { readJson } from "../http/body.ts";
import { ApiError } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";

/**
 * The body of a request that hands texts over.
 * @param texts says what its field of texts takes
 * @throws {ApiError} what the schema does not take, by field
 */
export async function readTextRequest<S extends z.ZodObject>(
  request: Request,
  schema: S,
  texts: { readonly field: string & keyof S["shape"]; readonly expected: string },
): Promise<z.output<S>> {
  const parsed = schema.safeParse(await readJson(request));
  if (parsed.success) return parsed.data;
  const { path, message, code } = parsed.error.issues[0]!;
  const field = path[0] === undefined ? null : String(path[0]);
  const unknown = code === "unrecognized_keys" ? `; this server takes ${Object.keys(schema.shape).map(show).join(", ")}` : "";
  const what = field === texts.field ? `expected ${texts.expected}` : message;
  throw new ApiError(400, `${field === null ? "the request" : show(field)}: ${what}${unknown}`, {
    param: field,
    code: "invalid_request",
  });
}

/** Counts the tokens of an answered request's texts, reports them, and returns them as OpenAI's API tells usage. */
export function usageOf(samples: readonly Sample[], { report }: Pick<Asked, "report">, waited: number) {
  const tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0);
  report({ promptTokens: tokens, cachedTokens: 0, answerTokens: 0, reason: "stop", error: null, waited });
  return { prompt_tokens: tokens, total_tokens: tokens };
}
