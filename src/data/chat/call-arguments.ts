import { UserError } from "../../base/errors.ts";
import { isRecord, parseJsonExactly } from "../../base/json.ts";
import type { MessageFields } from "./conversation.ts";

/**
 * Arguments of calls: OpenAI has them as JSON in a text, Transformers as an object. Most templates write them with `tojson`, which
 * puts a text into quotes once more, or go through an object's members; others join them to texts. What a template wants is
 * found by rendering one call in both forms.
 */
const PROBE = { name: "probed", value: "value" };

/** Renders messages; null where the template refuses them. */
export type Attempt = (messages: readonly MessageFields[]) => string | null;

/** Tells whether a template has a place for arguments that are objects, and none for arguments that are texts. */
export function wantsObjects(attempt: Attempt): boolean {
  const call = (given: unknown) =>
    attempt([
      { role: "user", content: "?" },
      // Mistral's templates want a name of nine letters and digits.
      {
        role: "assistant",
        content: "",
        tool_calls: [{ id: "call12345", type: "function", function: { name: "f", arguments: given } }],
      },
    ]);
  const asObject = call({ [PROBE.name]: PROBE.value });
  if (!asObject?.includes(PROBE.value)) return false;
  const asText = call(JSON.stringify({ [PROBE.name]: PROBE.value }));
  return !asText?.includes(PROBE.value) || asText.includes(`\\"${PROBE.name}\\"`);
}

/** Tells whether a message has a call whose arguments are a text. */
export function hasTextArguments({ tool_calls: calls }: MessageFields): boolean {
  return Array.isArray(calls) && calls.some((call: unknown) => typeof (functionOf(call) ?? {})["arguments"] === "string");
}

/** The message with its calls' arguments as objects where they are texts that hold one. */
export function withArguments(message: MessageFields): MessageFields {
  const calls = message["tool_calls"];
  if (!Array.isArray(calls)) return message;
  return { ...message, tool_calls: calls.map(withParsedArguments) };
}

/** Returns what is called: under `function`, as OpenAI has it, or the call itself. */
function functionOf(call: unknown): MessageFields | null {
  if (!isRecord(call)) return null;
  return isRecord(call["function"]) ? call["function"] : call;
}

function withParsedArguments(call: unknown): unknown {
  const called = functionOf(call);
  const written = called?.["arguments"];
  if (!called || typeof written !== "string") return call;
  let value: unknown;
  try {
    value = parseJsonExactly(written, "arguments");
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    // A text that is no JSON is for the template to write as it is.
    return call;
  }
  if (!isRecord(value)) return call;
  const parsed = { ...called, arguments: value };
  return called === call ? parsed : { ...(call as MessageFields), function: parsed };
}
