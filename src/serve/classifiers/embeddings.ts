import { z } from "zod";
import { ApiError, refusing } from "../http/errors.ts";
import type { Asked } from "../http/service.ts";
import { readTextRequest, usageOf } from "./text-request.ts";
import { expectKind, type FindTexts, type TextTurns } from "./text-turns.ts";

/** Texts of a request, as many as OpenAI's API takes. */
const MOST_TEXTS = 2048;

const text = z.string().min(1);
const tokens = z.array(z.int().min(0)).min(1);
const requestSchema = z.strictObject({
  model: z.string().optional(),
  input: z.union([text, z.array(text).min(1).max(MOST_TEXTS), tokens, z.array(tokens).min(1).max(MOST_TEXTS)]),
  encoding_format: z.enum(["float", "base64"]).nullish(),
  dimensions: z.int().min(1).nullish(),
  user: z.string().nullish(),
});

/**
 * Answers `POST /v1/embeddings` in the form of OpenAI's API (https://platform.openai.com/docs/api-reference/embeddings): texts, or lists of tokens, which are taken as they are. The event
 * loop gets in between two rows.
 */
export async function answerEmbeddings(
  find: FindTexts,
  turns: TextTurns,
  asked: Pick<Asked, "request" | "report" | "wait">,
): Promise<Response> {
  const expected = `a text, a list of up to ${MOST_TEXTS} texts, or tokens in their place`;
  const read = await readTextRequest(asked.request, requestSchema, { field: "input", expected });
  const { model, input, encoding_format: format, dimensions } = read;
  const named = find(model);
  asked.wait();
  return turns(asked.request.signal, ({ waited, breathe }) =>
    named.use(async (texts) => {
      const { embedder } = expectKind(named.name, texts, "embeds");
      if (dimensions && dimensions > embedder.dimensions)
        throw new ApiError(
          400,
          `"dimensions": the embeddings of ${named.name} have ${embedder.dimensions} numbers, not ${dimensions}`,
          {
            param: "dimensions",
            code: "invalid_value",
          },
        );
      const { maker } = embedder;
      const samples = listed(input).map((each, i) =>
        refusing("input", "invalid_input", () =>
          typeof each === "string"
            ? maker.alone(each.toWellFormed(), `input ${i + 1}`)
            : maker.tokens(Int32Array.from(each), `input ${i + 1}`),
        ),
      );
      const embeddings = await embedder.embed(samples, { breathe, ...(dimensions && { dimensions }) });
      const data = embeddings.map((embedding, index) => ({
        object: "embedding",
        index,
        embedding: format === "base64" ? base64Of(embedding) : Array.from(embedding, (value) => Number(value.toPrecision(9))),
      }));
      return Response.json({ object: "list", data, model: named.name, usage: usageOf(samples, asked, waited) });
    }),
  );
}

type Input = z.output<typeof requestSchema>["input"];

/** The texts of a request, each a text or its tokens. */
function listed(input: Input): readonly (string | readonly number[])[] {
  if (typeof input === "string") return [input];
  return typeof input[0] === "number" ? [input as number[]] : (input as (string | number[])[]);
}

/** Little-endian float32, as OpenAI's clients read it. */
const base64Of = ({ buffer, byteOffset, byteLength }: Float32Array): string =>
  Buffer.from(buffer, byteOffset, byteLength).toString("base64");
