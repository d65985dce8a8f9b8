import { z } from "zod";
import { validateConfig } from "./config-file.ts";
import { parseOnlyFlags } from "./flags.ts";

/** The flag of every verb that can print what happens for programs. */
export const JSON_FLAG = {
  json: z.boolean().default(false).describe("print what happens as JSON lines on standard output"),
} as const;

/** Flags of a verb that takes no words. @throws {UserError} */
export function readFlags<S extends z.ZodObject>(verb: string, schema: S, args: readonly string[]): z.output<S> {
  return validateConfig(schema, parseOnlyFlags(verb, schema, args));
}
