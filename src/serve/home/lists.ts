import type { Page } from "../../jobs/home/files.ts";
import { ApiError } from "../http/errors.ts";

/** A list as OpenAI's API has it. */
export function listOf<T extends { readonly id: string }>(page: Page<T>): object {
  return {
    object: "list",
    data: page.data,
    has_more: page.has_more,
    first_id: page.data[0]?.id ?? null,
    last_id: page.data.at(-1)?.id ?? null,
  };
}

/** The limit of a list's page. @throws {ApiError} */
export function limitOf(url: URL, fallback: number, most: number): number {
  const text = url.searchParams.get("limit");
  if (text === null) return fallback;
  const limit = Number(text);
  if (Number.isInteger(limit) && limit >= 1 && limit <= most) return limit;
  throw new ApiError(400, `limit: expected a whole number from 1 to ${most}, got ${text}`, {
    param: "limit",
    code: "invalid_value",
  });
}

/** The number of the entry that a page begins behind. @param numberOf null: there is no such entry @throws {ApiError} */
export function afterOf(url: URL, numberOf: (id: string) => number | null): number | null {
  const id = url.searchParams.get("after");
  if (id === null) return null;
  const number = numberOf(id);
  if (number !== null) return number;
  throw new ApiError(400, `after: there is no entry ${id}`, { param: "after", code: "invalid_value" });
}

export function notFound(what: string, id: string, param: string | null = null): ApiError {
  return new ApiError(404, `there is no ${what} ${JSON.stringify(id.slice(0, 80))}`, { param, code: "not_found" });
}
