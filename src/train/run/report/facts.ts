import { z } from "zod";
import type { Timeline } from "../../../schedule/timeline.ts";

const bytes = z.number().min(0);
const share = z.number();

const timeline: z.ZodType<Timeline> = z.object({
  slots: z.array(z.object({ start: share, end: share, bytes: z.array(bytes) })),
  moves: z.array(z.object({ direction: z.enum(["out", "in"]), start: share, end: share })),
});

/** The facts of a report that are in no other file of the run folder. The page itself holds them, so that it can be made anew. */
const factsSchema = z.object({
  version: z.literal(1),
  run: z.object({
    family: z.string(),
    layers: z.number(),
    parameters: z.object({ all: z.number(), trainable: z.number() }),
    examples: z.number(),
    tokens: z.number(),
    labelled: z.number(),
    heldOut: z.number(),
    strategy: z.string(),
    /** In a sentence. */
    schedule: z.string(),
    device: z.string(),
    offload: z.string().nullable(),
    notes: z.array(z.string()),
    firstExample: z.array(z.object({ text: z.string(), trained: z.boolean() })),
  }),
  memory: z.object({
    /** Planned, by part. */
    resident: z.record(z.string(), bytes),
    stash: bytes,
    workspace: bytes,
    temporary: bytes,
    peak: bytes,
    withoutCheckpointing: bytes,
    /** The limit of the activations that the default took; null: another strategy, or as little as can be. */
    limit: bytes.nullable().default(null),
    timeline,
    /** The measured peak of what is planned. */
    measured: bytes,
    /** The peak of the whole process. */
    process: bytes,
  }),
  sample: z.object({ prompt: z.string(), before: z.string().nullable(), after: z.string().nullable() }).nullable(),
  end: z.object({
    reason: z.enum(["running", "finished", "interrupted", "patience", "failed"]),
    /** Why the run failed. */
    message: z.string().nullable(),
    /** The step whose weights were exported, if not the last one's. */
    bestStep: z.number().nullable(),
  }),
  warnings: z.array(z.string()),
});

export type Facts = z.output<typeof factsSchema>;

const BEGIN = '<script type="application/json" id="facts">';
const END = "</script>";

/** An element that holds facts within a page, whatever texts are in them. */
export function factsElement(facts: Facts): string {
  return `${BEGIN}${JSON.stringify(facts).replaceAll("<", "\\u003c")}${END}`;
}

/** Returns the facts that a page holds; null where it holds none, or none that can be read. */
export function factsIn(page: string): Facts | null {
  const from = page.indexOf(BEGIN);
  if (from < 0) return null;
  try {
    const text = page.slice(from + BEGIN.length, page.indexOf(END, from));
    return factsSchema.safeParse(JSON.parse(text)).data ?? null;
  } catch {
    return null;
  }
}
