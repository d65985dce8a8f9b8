import type { TemplateArgs } from "../tokens/rendering.ts";

/** Describes what a chat template renders. */
export interface Conversation {
  readonly messages: readonly MessageFields[];
  readonly tools?: readonly unknown[] | null;
  readonly addGenerationPrompt?: boolean;
  /** Further variables of the template, such as `enable_thinking`: Transformers' `chat_template_kwargs`. */
  readonly args?: TemplateArgs | null;
}

/** A message as the template sees it: role, content, tool_calls, ... */
export type MessageFields = Readonly<Record<string, unknown>>;

/** Half open, in UTF-16 units. */
export type Range = readonly [start: number, end: number];

/** Names under which a message's reasoning comes; templates read the first (gpt-oss: `thinking`). */
export const REASONING = ["reasoning_content", "thinking", "reasoning"] as const;

/** The message with its reasoning under all names by which templates ask for it. */
export function withReasoning(message: MessageFields): MessageFields {
  const name = REASONING.find((key) => message[key] !== undefined);
  if (name === undefined) return message;
  return { thinking: message[name], ...message, reasoning_content: message[name] };
}
