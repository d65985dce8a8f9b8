import { z } from "zod";
import { show } from "../../base/json.ts";
import type { LabelledExample } from "../../data/examples/example.ts";
import type { Judge } from "../../generate/texts/judge.ts";
import { type Judgement, judgementOf } from "../../objectives/judgement.ts";
import { BASE } from "../api/endpoint.ts";
import { ApiError, refusing, stopping } from "../http/errors.ts";
import { readJson } from "../http/body.ts";
import { type Asked, type ServiceOptions, startService } from "../http/service.ts";
import { modelRoutes } from "../api/model-routes.ts";
import type { ModelServer } from "../server.ts";
import { answerRanking } from "./rerank.ts";

/** A classifier, a reward model or a reranker, whose weights are in memory. */
export interface ServedClassifier {
  readonly name: string;
  readonly judge: Pick<Judge, "classifier" | "maker" | "judge">;
}

/** Texts of a request. */
const MOST_TEXTS = 256;

const text = z.union([z.string().min(1), z.strictObject({ text: z.string().min(1), text_pair: z.string() })]);
const requestSchema = z.strictObject({
  model: z.string().optional(),
  input: z.union([text, z.array(text).min(1).max(MOST_TEXTS)]),
});

/**
 * Serves a classifier: `POST /v1/classify` takes a text, or a list of them, and answers in the form of Jina's API; vLLM's clients find the label there
 * too. `POST /v1/rerank` ranks texts. The event loop gets in between two rows of texts.
 * @throws {UserError} a host or port that cannot be listened on
 */
export function startClassifier({ name, judge }: ServedClassifier, options: ServiceOptions): ModelServer {
  const shutdown = new AbortController();
  const { routes, check } = modelRoutes(name);
  const ranker = { name, judge, check, shutdown: shutdown.signal };
  const maker = judge.maker(false);
  const classify = async ({ request, report }: Asked): Promise<Response> => {
    const parsed = requestSchema.safeParse(await readJson(request));
    if (!parsed.success) throw badRequest(parsed.error.issues[0]!);
    check(parsed.data.model);
    const texts = [parsed.data.input].flat();
    // All are read before the first is judged.
    const samples = texts.map((each, i) => refusing("input", "invalid_input", () => maker.samples(exampleOf(each, i))[0]!));
    const numbers = await judge.judge(samples, async () => {
      await Bun.sleep(0);
      if (shutdown.signal.aborted) throw stopping();
    });
    const data = numbers.map((given, index) => {
      return { object: "classification", index, ...written(judgementOf(judge.classifier, given)) };
    });
    const tokens = samples.reduce((sum, { ids }) => sum + ids.length, 0);
    report({ promptTokens: tokens, cachedTokens: 0, answerTokens: 0, reason: "stop", error: null, waited: 0 });
    const usage = { prompt_tokens: tokens, total_tokens: tokens };
    return Response.json({ object: "list", model: name, data, usage });
  };
  const judging = {
    [`${BASE}/classify`]: { POST: classify },
    [`${BASE}/rerank`]: { POST: (asked: Asked) => answerRanking(ranker, asked) },
  };
  const listener = startService({ ...routes, ...judging }, options, shutdown.signal);
  return {
    url: listener.url + BASE,
    async stop() {
      shutdown.abort();
      await listener.stop();
    },
  };
}

function badRequest({ path, message, code }: z.core.$ZodIssue): ApiError {
  const field = path[0] === undefined ? null : String(path[0]);
  const unknown = code === "unrecognized_keys" ? `; this server takes "model" and "input"` : "";
  const what = field === "input" ? `expected a text, {"text", "text_pair"}, or a list of up to ${MOST_TEXTS} of them` : message;
  return new ApiError(400, `${field === null ? "the request" : show(field)}: ${what}${unknown}`, {
    param: field,
    code: "invalid_request",
  });
}

/** A text without a label is read as one with it: nothing looks at the label. */
function exampleOf(given: z.output<typeof text>, i: number): LabelledExample {
  const where = `input ${i + 1}`;
  const { text: first, text_pair: pair = null } = typeof given === "string" ? { text: given } : given;
  return { kind: "labelled", content: { kind: "text", text: first.toWellFormed(), where }, pair, label: "-", where };
}

/** A judgement as clients read it: the likeliest class with its probability, and all classes, the likeliest first. */
function written({ label, probabilities, value }: Judgement): object {
  if (probabilities === undefined) return { score: value };
  const predictions = Object.entries(probabilities)
    .map(([name, score]) => ({ label: name, score }))
    .sort((a, b) => b.score - a.score);
  return typeof label === "string"
    ? { prediction: label, score: probabilities[label], label, predictions }
    : { prediction: label, labels: label, predictions };
}
