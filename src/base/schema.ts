import { z } from "zod";
import { UserError } from "./errors.ts";
import { show } from "./json.ts";

/** The parts that schemas of configuration files are made of. */

/** Dimensions above this are surely a mistake, and keep every product below 2^53. */
export const size = z.int().positive().max(16_777_216);
export const positive = z.number().positive();

/** `schema.parse` whose first issue becomes one sentence. */
export function parseWith<T>(schema: z.ZodType<T>, value: unknown, where: string): T {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const issue = result.error.issues[0]!;
  const key = issue.path.join(".");
  let actual: unknown = value;
  for (const part of issue.path) actual = (actual as Record<PropertyKey, unknown> | undefined)?.[part];
  throw new UserError(
    `${where}: ${key ? `"${key}" is ${actual === undefined ? "missing" : show(actual)}: ` : ""}${issue.message}`,
  );
}
