import { z } from "zod";
import { show } from "../../base/json.ts";
import type { Judge } from "../../generate/texts/judge.ts";
import { expectRanker, ranked } from "../../generate/texts/ranking.ts";
import { readJson } from "../http/body.ts";
import { ApiError, refusing, stopping } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";

/** Texts of a request, as many as Cohere's API takes. */
const MOST_TEXTS = 1000;

const text = z.union([z.string().min(1), z.strictObject({ text: z.string().min(1) })]);
const requestSchema = z.strictObject({
  model: z.string().optional(),
  query: z.string().min(1),
  documents: z.array(text).min(1).max(MOST_TEXTS),
  top_n: z.int().min(1).nullish(),
  return_documents: z.boolean().nullish(),
});

/** Describes what texts are ranked with. */
export interface Ranker {
  readonly name: string;
  readonly judge: Pick<Judge, "classifier" | "maker" | "judge">;
  /** Refuses the name of another model. */
  check(model: string | undefined): void;
  /** From when it is aborted nothing is answered any more. */
  readonly shutdown: AbortSignal;
}

/**
 * Answers `POST /v1/rerank` in the form of Cohere's and Jina's APIs: which texts answer a query, the best first. Texts that are too long lose their ends. The event
 * loop gets in between two rows.
 */
export async function answerRanking({ name, judge, check, shutdown }: Ranker, { request, report }: Asked): Promise<Response> {
  const parsed = requestSchema.safeParse(await readJson(request));
  if (!parsed.success) throw badRequest(parsed.error.issues[0]!);
  const { model, query, documents, top_n: top, return_documents: isWhole } = parsed.data;
  check(model);
  refusing(null, "no_ranker", () => expectRanker(judge.classifier, name));
  const texts = documents.map((each) => (typeof each === "string" ? each : each.text).toWellFormed());
  const example = { kind: "ranked", query: query.toWellFormed(), texts, labels: texts.map(() => 0), where: "documents" } as const;
  const samples = refusing("documents", "invalid_documents", () => judge.maker(true).samples(example));
  const scores = await judge.judge(samples, async () => {
    await Bun.sleep(0);
    if (shutdown.aborted) throw stopping();
  });
  const results = ranked(scores, judge.classifier.activation)
    .slice(0, top ?? undefined)
    .map(({ index, relevance }) => ({
      index,
      relevance_score: relevance,
      ...(isWhole && { document: { text: texts[index]! } }),
    }));
  const tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0);
  report({ promptTokens: tokens, cachedTokens: 0, answerTokens: 0, reason: "stop", error: null, waited: 0 });
  const usage = { prompt_tokens: tokens, total_tokens: tokens };
  return Response.json({ id: `rerank-${crypto.randomUUID()}`, object: "list", model: name, results, usage });
}

function badRequest({ path, message, code }: z.core.$ZodIssue): ApiError {
  const field = path[0] === undefined ? null : String(path[0]);
  const unknown =
    code === "unrecognized_keys" ? `; this server takes ${Object.keys(requestSchema.shape).map(show).join(", ")}` : "";
  const what = field === "documents" ? `expected a list of 1 to ${MOST_TEXTS} texts, or of {"text"}` : message;
  return new ApiError(400, `${field === null ? "the request" : show(field)}: ${what}${unknown}`, {
    param: field,
    code: "invalid_request",
  });
}
