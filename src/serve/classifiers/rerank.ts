import { z } from "zod";
import { expectRanker, ranked } from "../../generate/texts/ranking.ts";
import { refusing } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";
import { readTextRequest, usageOf } from "./text-request.ts";
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
  asked: Pick<Asked, "request" | "report" | "wait">,
): Promise<Response> {
  const texts = { field: "documents", expected: `a list of 1 to ${MOST_TEXTS} texts, or of {"text"}` } as const;
  const read = await readTextRequest(asked.request, requestSchema, texts);
  const { model, query, documents, top_n: top, return_documents: isWhole } = read;
  const named = find(model);
  asked.wait();
  return turns(asked.request.signal, ({ waited, breathe }) =>
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
      const usage = usageOf(samples, asked, waited);
      return Response.json({ id: `rerank-${crypto.randomUUID()}`, object: "list", model: named.name, results, usage });
    }),
  );
}
