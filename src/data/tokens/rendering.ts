/** The treatments of text in a message that is a special token's: that token, or text like any other. */
export const SPECIAL_TEXT = ["token", "escape"] as const;

export type SpecialText = (typeof SPECIAL_TEXT)[number];

/** Further variables of a chat template by name, such as `enable_thinking`: Transformers' `chat_template_kwargs`. */
export type TemplateArgs = Readonly<Record<string, unknown>>;
