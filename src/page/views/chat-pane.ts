import { messageOf, request } from "../api/client.ts";
import { eventsOf } from "../api/sse.ts";
import { h, write } from "../base/dom.ts";
import { formatNumber } from "../base/format.ts";

export interface ChatSettings {
  readonly system: string;
  readonly temperature?: number;
  readonly max_tokens?: number;
}

interface Message {
  readonly role: "user" | "assistant";
  readonly content: string;
}

/** A piece of a streamed answer, as far as it is shown. */
interface Piece {
  readonly choices: readonly { readonly delta: { readonly content?: string | null; readonly reasoning_content?: string } }[];
  readonly usage?: { readonly completion_tokens: number } | null;
  readonly error?: { readonly message: string };
}

/** One of the models that are talked with: its choice, the talk so far, and the answer as it comes. */
export function chatPane(id: string, label: string) {
  const model = h("select", { id: `model-${id}`, "aria-label": `${label} model` });
  const log = h("div", { class: "log", role: "log", "aria-label": `Talk with the ${label.toLowerCase()} model`, tabindex: 0 });
  const element = h("section", { class: "panel pane", "aria-label": `${label} model` }, model, log);
  let talk: Message[] = [];
  let controller: AbortController | null = null;
  model.addEventListener("change", () => clear());

  const clear = () => {
    controller?.abort();
    talk = [];
    log.replaceChildren();
  };
  const scroll = () => {
    log.scrollTop = log.scrollHeight;
  };
  /** Shows an answer as it comes, and returns it. */
  const listen = async (
    response: Response,
    text: HTMLElement,
    thoughts: HTMLDetailsElement,
    facts: HTMLElement,
  ): Promise<string> => {
    const begin = performance.now();
    let first: number | null = null;
    let answer = "";
    let thought = "";
    for await (const { data } of eventsOf(response)) {
      if (data === "" || data === "[DONE]") continue;
      const piece = JSON.parse(data) as Piece;
      if (piece.error) throw new Error(piece.error.message);
      const delta = piece.choices[0]?.delta;
      if (delta?.content || delta?.reasoning_content) first ??= performance.now() - begin;
      thought += delta?.reasoning_content ?? "";
      answer += delta?.content ?? "";
      thoughts.hidden = thought === "";
      write(thoughts.lastElementChild!, thought);
      write(text, answer);
      scroll();
      if (!piece.usage) continue;
      const { completion_tokens: tokens } = piece.usage;
      const seconds = (performance.now() - begin) / 1000;
      write(
        facts,
        `${tokens} tokens, ${formatNumber(tokens / seconds, 3)} tokens/s, first after ${formatNumber((first ?? 0) / 1000, 2)} s`,
      );
    }
    return answer;
  };

  return {
    element,
    model,
    clear,
    choose(name: string) {
      model.value = name;
      element.dataset["empty"] = String(name === "");
    },
    stop: () => controller?.abort(),
    /** Says something to the model; resolves when it has answered, was stopped, or could not. */
    async say(content: string, { system, ...options }: ChatSettings): Promise<void> {
      if (model.value === "") return;
      const asked: Message = { role: "user", content };
      const text = h("p", {}, "");
      const thoughts = h("details", { hidden: true }, h("summary", {}, "Thoughts"), h("p", { class: "muted" }));
      const facts = h("span", { class: "who" }, "…");
      log.append(
        h("div", { class: "said user" }, h("p", {}, content)),
        h("div", { class: `said ${id === "right" ? "tuned" : "base"}` }, thoughts, text, facts),
      );
      scroll();
      controller = new AbortController();
      // Read out when it is whole, and not word by word.
      log.setAttribute("aria-busy", "true");
      try {
        const response = await request("v1/chat/completions", {
          method: "POST",
          signal: controller.signal,
          headers: { "content-type": "application/json" },
          body: JSON.stringify({
            model: model.value,
            messages: [...(system === "" ? [] : [{ role: "system", content: system }]), ...talk, asked],
            stream: true,
            stream_options: { include_usage: true },
            ...options,
          }),
        });
        const answer = await listen(response, text, thoughts, facts);
        talk = [...talk, asked, { role: "assistant", content: answer }];
        if (answer === "") write(text, "(nothing)");
      } catch (error) {
        if (controller.signal.aborted) write(facts, "stopped");
        else {
          write(facts, "");
          text.className = "problem";
          write(text, messageOf(error));
        }
      } finally {
        log.removeAttribute("aria-busy");
      }
    },
  };
}
