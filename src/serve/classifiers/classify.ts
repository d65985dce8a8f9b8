import { z } from "zod";
import type { LabelledExample } from "../../data/examples/example.ts";
import { type Judgement, judgementOf } from "../../objectives/judgement.ts";
import { refusing } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";
import { readTextRequest, usageOf } from "./text-request.ts";
import { expectKind, type FindTexts, type TextTurns } from "./text-turns.ts";

/** Texts of a request. */
const MOST_TEXTS = 256;

const text = z.union([z.string().min(1), z.strictObject({ text: z.string().min(1), text_pair: z.string() })]);
const requestSchema = z.strictObject({
  model: z.string().optional(),
  input: z.union([text, z.array(text).min(1).max(MOST_TEXTS)]),
});

/**
 * Answers `POST /v1/classify`: takes a text, or a list of them, and answers in the form of Jina's API; vLLM's clients find the label there too. The event
 * loop gets in between two rows.
 */
export async function answerClassify(
  find: FindTexts,
  turns: TextTurns,
  asked: Pick<Asked, "request" | "report" | "wait">,
): Promise<Response> {
  const expected = `a text, {"text", "text_pair"}, or a list of up to ${MOST_TEXTS} of them`;
  const { model, input } = await readTextRequest(asked.request, requestSchema, { field: "input", expected });
  const named = find(model);
  asked.wait();
  return turns(asked.request.signal, ({ waited, breathe }) =>
    named.use(async (loaded) => {
      const { judge } = expectKind(named.name, loaded, "judges");
      const maker = judge.maker(false);
      const texts = [input].flat();
      // All are read before the first is judged.
      const samples = texts.map((each, i) => refusing("input", "invalid_input", () => maker.samples(exampleOf(each, i))[0]!));
      const numbers = await judge.judge(samples, breathe);
      const data = numbers.map((given, index) => {
        return { object: "classification", index, ...written(judgementOf(judge.classifier, given)) };
      });
      const usage = usageOf(samples, asked, waited);
      return Response.json({ object: "list", model: named.name, data, usage });
    }),
  );
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
