import { show } from "../../base/json.ts";
import type { ChatExample, Message } from "../examples/formats.ts";
import { attempt, UserError } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Field } from "./marks.ts";
import { renderExample } from "./refusals.ts";
import { traceConversation } from "./trace.ts";

/** Roles that every template is expected to know, or to refuse. */
const USUAL_ROLES: readonly string[] = ["system", "user", "assistant", "tool"];

/** Many templates pass over roles that they do not know (such as `developer`) without a word. @throws {UserError} */
export function refuseLostRoles(template: ChatTemplate, { messages, tools, args, where }: ChatExample): void {
  for (const [i, { role }] of messages.entries()) {
    if (USUAL_ROLES.includes(role)) continue;
    const render = (some: readonly Message[]) => attempt(() => template.render({ messages: fieldsOf(some), tools, args }));
    if (render(messages) !== render(messages.toSpliced(i, 1))) continue;
    throw new UserError(
      `${where}: the chat template leaves out message ${i + 1}, whose role is ${show(role)}; give it one of ${USUAL_ROLES.join(", ")}`,
    );
  }
}

/**
 * Refuses a conversation of which the template leaves something out other than the reasoning of what was said before, where an answer
 * is asked for.
 * @throws {UserError}
 */
export function refuseLostContext(template: ChatTemplate, written: ChatExample): void {
  const example = asCalled(template, written);
  const { messages, tools, args, where } = example;
  refuseLostRoles(template, example);
  const conversation = { messages: fieldsOf(messages), tools, args, addGenerationPrompt: true };
  const text = renderExample(template, conversation, where);
  refuseFields(
    traceConversation(template, conversation, text).lost.filter(({ isReasoning }) => !isReasoning),
    example,
  );
}

/** @throws {UserError} that names the first field and the others, when there are any */
export function refuseFields(lost: readonly Field[], { messages, where }: ChatExample): void {
  const [first, ...others] = lost;
  if (first === undefined) return;
  const describe = ({ message, name, isReasoning }: Field) => {
    const field = isReasoning && name === "content" ? 'the reasoning in "content"' : `"${name}"`;
    const role = message === null ? "" : messages[message]!.role;
    return role === "assistant" || role === "" ? field : `${field} of the role ${show(role)}`;
  };
  const place = first.message === null ? where : `${where}, message ${first.message + 1}`;
  const more = others.map((field) =>
    field.message === null || field.message === first.message
      ? describe(field)
      : `${describe(field)} (message ${field.message + 1})`,
  );
  throw new UserError(
    `${place}: the chat template leaves out ${describe(first)}${more.length > 0 ? `, and also ${listed(more)}` : ""}; ` +
      "the model would never see it: give a template that has a place for it with --chat-template, or take it out of the data",
  );
}

const MOST_LISTED = 4;

function listed(texts: readonly string[]): string {
  const rest = texts.length - MOST_LISTED;
  return rest > 0 ? `${texts.slice(0, MOST_LISTED).join(", ")} and ${rest} more` : texts.join(", ");
}

/** The example with its calls' arguments as the template wants them. */
export function asCalled(template: ChatTemplate, example: ChatExample): ChatExample {
  const messages = example.messages.map((message) => {
    const fields = template.asCalled(message.fields);
    return fields === message.fields ? message : { ...message, fields };
  });
  return { ...example, messages };
}

export function fieldsOf(messages: readonly Message[]): Message["fields"][] {
  return messages.map((message) => message.fields);
}
