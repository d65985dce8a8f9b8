import { attempt, UserError } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation, MessageFields } from "./conversation.ts";

/**
 * Renders a conversation. A refusal names the example, the message from which on the template refuses it, and what the message lacks,
 * if that is it.
 * @param where names the example
 * @throws {UserError}
 */
export function renderExample(template: ChatTemplate, conversation: Conversation, where: string): string {
  try {
    return template.render(conversation);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    throw explained(template, conversation, where, error);
  }
}

/** Fields that some templates take for granted, with a value that says nothing. */
const EMPTY: MessageFields = { content: "", tool_calls: [], name: "", tool_call_id: "" };

function explained(template: ChatTemplate, conversation: Conversation, where: string, { message: why }: UserError): UserError {
  const { messages } = conversation;
  const first = messages.findIndex(
    (_, i) => attempt(() => template.render({ ...conversation, messages: messages.slice(0, i + 1) })) === null,
  );
  // The beginnings may be refused for other reasons, as a conversation that ends with a call; the last message is as good as any then.
  const isFirst = first >= 0 && refusalOf(template, { ...conversation, messages: messages.slice(0, first + 1) }) === why;
  if (!isFirst) return new UserError(`${where}: ${why}`);
  const message = messages[first]!;
  const isMissing = (name: string) => {
    if (message[name] !== undefined) return false;
    const filled = { ...conversation, messages: [...messages.slice(0, first), { ...message, [name]: EMPTY[name] }] };
    return refusalOf(template, filled) !== why;
  };
  const missing = Object.keys(EMPTY).find(isMissing);
  const hint = missing === undefined ? "" : `; the message has no "${missing}", which the template needs`;
  return new UserError(`${where}, message ${first + 1}: ${why}${hint}`);
}

/** Why the template refuses a conversation; null: it does not. */
function refusalOf(template: ChatTemplate, conversation: Conversation): string | null {
  try {
    template.render(conversation);
    return null;
  } catch (error) {
    if (error instanceof UserError) return error.message;
    throw error;
  }
}
