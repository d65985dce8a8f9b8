import { textOf, usageOf } from "./chat.ts";
import { BASE, type Endpoint, type FinishReason, type Head, type PlacedToken, serverSent, type Wishes } from "./endpoint.ts";

export const TEXT_PATH = `${BASE}/completions`;

/** https://platform.openai.com/docs/api-reference/completions */
export function textEndpoint({ includeUsage, logprobs }: Wishes): Endpoint {
  const choice = (index: number, text: string, reason: FinishReason | null, tokens: readonly PlacedToken[] | null) => ({
    index,
    text,
    logprobs: logprobs && tokens !== null ? logprobsOf(tokens) : null,
    finish_reason: reason,
  });
  return {
    idPrefix: "cmpl-",
    whole(head, choices, usage) {
      const views = choices.map(({ pieces, reason }, index) => {
        const tokens = pieces.flatMap((piece) => piece.tokens);
        return choice(index, textOf(pieces), reason, tokens);
      });
      return { ...text(head, views), usage: usageOf(usage) };
    },
    stream: (head) => ({
      begin: () => "",
      piece: (index, piece) => serverSent(text(head, [choice(index, textOf([piece]), null, piece.tokens)])),
      finish: (index, reason) => serverSent(text(head, [choice(index, "", reason, null)])),
      end: (usage) => (includeUsage ? serverSent({ ...text(head, []), usage: usageOf(usage) }) : "") + serverSent("[DONE]"),
      fail: (error) => serverSent(error.body),
    }),
  };
}

const text = ({ id, created, model }: Head, choices: readonly object[]) => ({
  id,
  object: "text_completion",
  created,
  model,
  choices,
});

/** The older form: lists beside each other. The token that was chosen is always among the likeliest. */
function logprobsOf(tokens: readonly PlacedToken[]): object {
  return {
    tokens: tokens.map(({ view: { token } }) => token),
    token_logprobs: tokens.map(({ view: { logprob } }) => logprob),
    top_logprobs: tokens.map(({ view }) =>
      Object.fromEntries([...view.top_logprobs, view].map(({ token, logprob }) => [token, logprob])),
    ),
    text_offset: tokens.map(({ at }) => at),
  };
}
