import { chatTemplateOf } from "../data/chat-template.ts";
import type { Tokenizer } from "../data/tokenizer.ts";

/** A chat format that Ollama's templates (Go) can say: how it renders a conversation, and the template that does. */
interface Format {
  readonly message: (role: string, content: string) => string;
  readonly answer: string;
  readonly template: string;
}

const FORMATS: readonly Format[] = [
  {
    message: (role, content) => `<|im_start|>${role}\n${content}<|im_end|>\n`,
    answer: "<|im_start|>assistant\n",
    template: `{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
`,
  },
  {
    message: (role, content) => `<|start_header_id|>${role}<|end_header_id|>\n\n${content}<|eot_id|>`,
    answer: "<|start_header_id|>assistant<|end_header_id|>\n\n",
    template: `{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>

{{ .Content }}<|eot_id|>{{ end }}<|start_header_id|>assistant<|end_header_id|>

`,
  },
];

const TALK = [
  { role: "system", content: "Be brief." },
  { role: "user", content: "One?" },
  { role: "assistant", content: "Two." },
  { role: "user", content: "Three?" },
];

/**
 * A Modelfile for Ollama. A chat template that is one of the usual formats is translated; any other is left to Ollama,
 * which knows many by the template in the GGUF file.
 */
export function modelfile(from: string, adapter: string | null, tokenizer: Tokenizer, stop: readonly string[]): string {
  const format = formatOf(tokenizer);
  const lines = [`FROM ${from}`, ...(adapter === null ? [] : [`ADAPTER ${adapter}`])];
  if (format) lines.push(`TEMPLATE """${format.template}"""`);
  return `${[...lines, ...stop.map((token) => `PARAMETER stop ${JSON.stringify(token)}`)].join("\n")}\n`;
}

function formatOf(tokenizer: Tokenizer): Format | undefined {
  let text: string;
  try {
    text = chatTemplateOf(tokenizer).render({ messages: TALK, addGenerationPrompt: true });
  } catch {
    // A template that refuses this conversation is none of the formats.
    return undefined;
  }
  const bos = tokenizer.namedTokens["bos_token"];
  const plain = bos !== undefined && text.startsWith(bos) ? text.slice(bos.length) : text;
  return FORMATS.find(
    (format) => plain === TALK.map(({ role, content }) => format.message(role, content)).join("") + format.answer,
  );
}
