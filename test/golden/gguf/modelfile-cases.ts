import { createTokenizer, loadTokenizer, type Tokenizer } from "../../../src/data/tokens/tokenizer.ts";
import { join } from "node:path";

const folder = join(import.meta.dir, "../tokenizers");

/** Templates of published models in short: what a Modelfile has to say of them. */
const TEMPLATES: Readonly<Record<string, string>> = {
  "default system":
    "{% for message in messages %}{% if loop.first and message.role != 'system' %}{{ '<|im_start|>system\nBe kind.<|im_end|>\n' }}{% endif %}" +
    "{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}" +
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
  "llama 3":
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + message.content | trim + '<|eot_id|>' }}" +
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
  "instructions, first":
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}" +
    "{% for message in messages if message.role != 'system' %}{% if message.role == 'user' %}" +
    "{{ ' [INST] ' + (system + '\n\n' if loop.first and system else '') + message.content + ' [/INST]' }}" +
    "{% else %}{{ ' ' + message.content + eos_token }}{% endif %}{% endfor %}",
  "instructions, tight":
    "{{ bos_token }}{% set system = messages[0].content if messages[0].role == 'system' else '' %}" +
    "{% for message in messages if message.role != 'system' %}{% if message.role == 'user' %}" +
    "{{ '[INST]' + (system + '\n\n' if loop.last and system else '') + message.content + '[/INST]' }}" +
    "{% else %}{{ message.content + eos_token }}{% endif %}{% endfor %}",
};

/** Tokenizers by name: those of the families, one without a template, and one for each of the templates above. */
export function tokenizers(): ReadonlyMap<string, Tokenizer> {
  const of = (name: string) => loadTokenizer(join(folder, name));
  const families = ["mistral", "qwen", "gemma2", "gemma3", "phi3", "phi4", "internlm2", "internlm3"];
  const mistral = of("mistral");
  const other = (templates: ReadonlyMap<string, string>) => createTokenizer(mistral.json, mistral.namedTokens, templates);
  return new Map([
    ...families.map((name) => [name, of(name)] as const),
    ["no template", other(new Map())],
    ...Object.entries(TEMPLATES).map(([name, source]) => [name, other(new Map([["default", source]]))] as const),
  ]);
}

/** Conversations that end with a question. */
export const TALKS = [
  [{ role: "user", content: "hello" }],
  [
    { role: "system", content: "Count the sacks." },
    { role: "user", content: 'how "many"?' },
  ],
  [
    { role: "system", content: "Use {{ braces }}." },
    { role: "user", content: "1\n2" },
    { role: "assistant", content: "one\n\n  two" },
    { role: "user", content: "3" },
    { role: "assistant", content: "three <b>" },
    { role: "user", content: "four?" },
  ],
] as const;

/** The template in a Modelfile. */
export function templateIn(modelfile: string): string {
  return /^TEMPLATE """([^]*?)"""$/m.exec(modelfile)?.[1] ?? "";
}
