import { z } from "zod";
import { show } from "../../base/json.ts";
import { expectRanker, ranked } from "../../generate/texts/ranking.ts";
import { readJson } from "../http/body.ts";
import { ApiError, refusing } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";
import { expectKind, type FindTexts, type TextTurns } from "./text-turns.ts";

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

/**
 * Answers `POST /v1/rerank` in the form of Cohere's and Jina's APIs: which texts answer a query, the best first. Texts that are too long lose their ends. The event
 * loop gets in between two rows.
 */
export async function answerRanking(
  find: FindTexts,
  turns: TextTurns,
  { request, report, wait }: Pick<Asked, "request" | "report" | "wait">,
): Promise<Response> {
  const parsed = requestSchema.safeParse(await readJson(request));
  if (!parsed.success) throw badRequest(parsed.error.issues[0]!);
  const { model, query, documents, top_n: top, return_documents: isWhole } = parsed.data;
  const named = find(model);
  wait();
  return turns(request.signal, ({ waited, breathe }) =>
    named.use(async (loaded) => {
      const { judge } = expectKind(named.name, loaded, "judges");
      refusing(null, "no_ranker", () => expectRanker(judge.classifier, named.name));
      const texts = documents.map((each) => (typeof each === "string" ? each : each.text).toWellFormed());
      const labels = texts.map(() => 0);
      const example = { kind: "ranked", query: query.toWellFormed(), texts, labels, where: "documents" } as const;
      const samples = refusing("documents", "invalid_documents", () => judge.maker(true).samples(example));
      const scores = await judge.judge(samples, breathe);
      const results = ranked(scores, judge.classifier.activation)
        .slice(0, top ?? undefined)
        .map(({ index, relevance }) => ({
          index,
          relevance_score: relevance,
          ...(isWhole && { document: { text: texts[index]! } }),
        }));
      const tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0);
      report({ promptTokens: tokens, cachedTokens: 0, answerTokens: 0, reason: "stop", error: null, waited });
      const usage = { prompt_tokens: tokens, total_tokens: tokens };
      return Response.json({ id: `rerank-${crypto.randomUUID()}`, object: "list", model: named.name, results, usage });
    }),
  );
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
