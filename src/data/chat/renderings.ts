import { attempt } from "../../base/errors.ts";
import type { ChatTemplate } from "./chat-template.ts";
import type { Conversation } from "./conversation.ts";

/** Renderings of a conversation's beginnings, each made once. */
export interface Renderings {
  /** The first `count` messages; null: the template refuses them. */
  plain(count: number): string | null;
  /** The same with the generation prompt behind. */
  asking(count: number): string | null;
  /** `plain` without a token that closes it where no answer is asked for. */
  unclosed(count: number, ends: readonly string[]): string | null;
}

export function createRenderings(template: ChatTemplate, upTo: (count: number) => Conversation): Renderings {
  const known = new Map<number, string | null>();
  const memo = (key: number, make: () => string): string | null => {
    let text = known.get(key);
    if (text === undefined) known.set(key, (text = attempt(make)));
    return text;
  };
  const plain = (count: number) => memo(2 * count, () => template.render(upTo(count)));
  const asking = (count: number) => memo(2 * count + 1, () => template.render({ ...upTo(count), addGenerationPrompt: true }));
  return {
    plain,
    asking,
    unclosed(count, ends) {
      const text = plain(count);
      const closing = text === null ? undefined : ends.find((token) => text.endsWith(token));
      if (text === null || closing === undefined) return text;
      const open = text.slice(0, -closing.length);
      const asked = asking(count);
      return asked !== null && !asked.startsWith(text) && asked.startsWith(open) ? open : text;
    },
  };
}
