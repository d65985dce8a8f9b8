import { chatTemplateOf } from "../data/chat/chat-template.ts";
import type { Tokenizer } from "../data/tokens/tokenizer.ts";
import type { SamplingValues } from "../generate/sampling.ts";
import { samplingParameters } from "./sampling.ts";

type Message = Readonly<Record<"role" | "content", string>>;

/** Describes what stands before and behind a content. */
type Turn = readonly [before: string, behind: string];

/** A chat format that Ollama's templates (Go's text/template) can say. */
interface Format {
  /** A role's turn; the assistant's begins as its answer is asked for. */
  readonly turn: (role: string) => Turn;
  /** The text that asks for an answer, where the assistant's turn begins otherwise. */
  readonly answer?: string;
  /** Where a system prompt stands: in a turn of its own, or before the content of the first or the last user turn. */
  readonly system: "turn" | "first" | "last";
}

const alike =
  (before: string, middle: string, behind: string) =>
  (role: string): Turn => [`${before}${role}${middle}`, behind];

/** The format of models without a template (`chatTemplateOf`). */
function plain(eos: string): Format {
  return { turn: (role) => [`${role}: `, role === "assistant" ? `${eos}\n` : "\n"], answer: "assistant:", system: "turn" };
}

/** Mistral's format, which has changed from version to version in its spaces. */
function instructions(eos: string): Format[] {
  return ["[INST] ", " [INST] ", "[INST]"].flatMap((open) =>
    [" [/INST]", "[/INST]"].flatMap((close) =>
      [" ", ""].flatMap((space) =>
        [eos, ` ${eos}`].flatMap((end) =>
          (["first", "last"] as const).map((system): Format => ({
            turn: (role) => (role === "assistant" ? [space, end] : [open, close]),
            answer: "",
            system,
          })),
        ),
      ),
    ),
  );
}

const gemma = alike("<start_of_turn>", "\n", "<end_of_turn>\n");

const FORMATS: readonly Format[] = [
  // ChatML
  { turn: alike("<|im_start|>", "\n", "<|im_end|>\n"), system: "turn" },
  // Llama 3
  { turn: alike("<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"), system: "turn" },
  // Gemma
  { turn: (role) => gemma(role === "assistant" ? "model" : role), system: "first" },
  // Phi-3, Phi-4-mini
  { turn: alike("<|", "|>\n", "<|end|>\n"), system: "turn" },
  { turn: alike("<|", "|>", "<|end|>"), system: "turn" },
];

const USER: readonly Message[] = [
  { role: "user", content: "One?" },
  { role: "assistant", content: "Two." },
  { role: "user", content: "Three?" },
];
const TALK: readonly Message[] = [{ role: "system", content: "Be brief." }, ...USER];

/**
 * A Modelfile for Ollama. A chat template that is one of the usual formats is translated. Any other is left to Ollama: since the
 * middle of 2026 it renders with the template in the GGUF file, before it knew some of them by their text. White space around a content stays, also where the model's
 * own template takes it away.
 */
export function modelfile(
  from: string,
  adapter: string | null,
  tokenizer: Tokenizer,
  stop: readonly string[],
  sampling: Partial<SamplingValues> = {},
): string {
  const lines = [`FROM ${from}`, ...(adapter === null ? [] : [`ADAPTER ${adapter}`])];
  const found = formatOf(tokenizer);
  if (found) lines.push(`TEMPLATE """${goTemplate(found.format)}"""`);
  if (found?.system) lines.push(`SYSTEM """${found.system}"""`);
  const parameters = [...samplingParameters(sampling), ...stop.map((token) => `PARAMETER stop ${JSON.stringify(token)}`)];
  return `${[...lines, ...parameters].join("\n")}\n`;
}

/** The format of a model's chat template, and the system prompt that it puts where there is none. */
function formatOf(tokenizer: Tokenizer): { format: Format; system: string | null } | undefined {
  const bos = tokenizer.namedTokens["bos_token"];
  const rendered = (messages: readonly Message[]): string | null => {
    try {
      const text = chatTemplateOf(tokenizer).render({ messages, addGenerationPrompt: true });
      return bos !== undefined && text.startsWith(bos) ? text.slice(bos.length) : text;
    } catch {
      // A template that refuses a conversation, as Gemma 2's does with a system prompt.
      return null;
    }
  };
  const [whole, user] = [rendered(TALK), rendered(USER)];
  const eos = tokenizer.namedTokens["eos_token"] ?? "";
  for (const format of [...FORMATS, ...instructions(eos), plain(eos)]) {
    if (whole === null ? user === render(format, USER) : whole === render(format, TALK)) {
      return { format, system: user === null ? null : defaultSystem(format, user) };
    }
  }
  return undefined;
}

/** The system prompt of a text that was rendered without one, or null. */
function defaultSystem(format: Format, text: string): string | null {
  if (text === render(format, USER)) return null;
  const [before, behind] = render(format, [{ role: "system", content: "\0" }, ...USER]).split("\0") as [string, string];
  const fits = text.startsWith(before) && text.endsWith(behind) && text.length > before.length + behind.length;
  const system = fits ? text.slice(before.length, text.length - behind.length) : null;
  return system?.includes('"""') ? null : system;
}

function answerOf({ turn, answer }: Format): string {
  return answer ?? turn("assistant")[0];
}

function render(format: Format, messages: readonly Message[]): string {
  const system = format.system === "turn" ? undefined : messages.find(({ role }) => role === "system")?.content;
  const turns = messages.filter(({ role }) => format.system === "turn" || role !== "system");
  const users = turns.filter(({ role }) => role === "user");
  const holder = format.system === "first" ? users[0] : users.at(-1);
  const text = turns.map((message) => {
    const [before, behind] = format.turn(message.role);
    const prompt = system !== undefined && message === holder ? `${system}\n\n` : "";
    return before + prompt + message.content + behind;
  });
  return text.join("") + answerOf(format);
}

/** The same in Go's words; Ollama gives it `.Messages`, and in `.System` the contents of those whose role is system. */
function goTemplate(format: Format): string {
  const turn = (role: string, prompt = "") => {
    const [before, behind] = format.turn(role);
    return `${before}${prompt}{{ .Content }}${behind}`;
  };
  if (format.system === "turn") {
    const [any, own] = [turn("{{ .Role }}"), turn("assistant")];
    const isAlike = any.replace("{{ .Role }}", "assistant") === own;
    const one = isAlike ? any : `{{ if eq .Role "assistant" }}${own}{{ else }}${any}{{ end }}`;
    return `{{- range .Messages }}${one}{{ end }}${answerOf(format)}`;
  }
  const [declared, prompt] =
    format.system === "first"
      ? ["{{- $system := .System }}", '{{ if $system }}{{ $system }}\n\n{{ $system = "" }}{{ end }}']
      : ["", "{{ if and $.System (eq (len (slice $.Messages $i)) 1) }}{{ $.System }}\n\n{{ end }}"];
  const roles = `{{ if eq .Role "user" }}${turn("user", prompt)}{{ else if eq .Role "assistant" }}${turn("assistant")}{{ end }}`;
  return `${declared}{{- range $i, $_ := .Messages }}${roles}{{ end }}${answerOf(format)}`;
}
