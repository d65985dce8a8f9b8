import type { LogprobView, Piece } from "./endpoint.ts";

/** An event of a stream without its number. */
export interface ResponseEvent {
  readonly type: string;
  readonly [field: string]: unknown;
}

/** Makes the items of a response from the pieces of an answer, and the events that tell of them. */
export interface ResponseItems {
  add(piece: Piece): ResponseEvent[];
  /** Ends the last item. There is one at least: an empty answer is an empty text. @param status of an item that is not over by itself */
  end(status: "completed" | "incomplete"): ResponseEvent[];
  /** Those that are over. */
  readonly output: readonly object[];
}

type Status = "in_progress" | "completed" | "incomplete";

/** The item that goes on. */
interface Open {
  readonly kind: "text" | "reasoning";
  readonly id: string;
  text: string;
  readonly logprobs: LogprobView[];
}

const newId = (prefix: string): string => `${prefix}_${crypto.randomUUID().replaceAll("-", "")}`;

export function createResponseItems(): ResponseItems {
  const output: object[] = [];
  let open: Open | null = null;
  const at = (id: string) => ({ item_id: id, output_index: output.length });
  const inside = (id: string) => ({ ...at(id), content_index: 0 });

  const begin = (kind: Open["kind"]): ResponseEvent[] => {
    const begun: Open = { kind, id: newId(kind === "text" ? "msg" : "rs"), text: "", logprobs: [] };
    open = begun;
    return [
      { type: "response.output_item.added", output_index: output.length, item: itemOf(begun, "in_progress", false) },
      { type: "response.content_part.added", ...inside(begun.id), part: partOf(begun) },
    ];
  };
  const end = (status: "completed" | "incomplete"): ResponseEvent[] => {
    if (open === null) return [];
    const ended = open;
    const { kind, id, text, logprobs } = ended;
    const item = itemOf(ended, status, true);
    const events = [
      kind === "text"
        ? { type: "response.output_text.done", ...inside(id), text, logprobs }
        : { type: "response.reasoning_text.done", ...inside(id), text },
      { type: "response.content_part.done", ...inside(id), part: partOf(ended) },
      { type: "response.output_item.done", output_index: output.length, item },
    ];
    output.push(item);
    open = null;
    return events;
  };
  const continued = (kind: Open["kind"]): ResponseEvent[] => (open?.kind === kind ? [] : [...end("completed"), ...begin(kind)]);

  return {
    output,
    add({ part, tokens }) {
      if ("call" in part) {
        const events = end("completed");
        const { id: callId, function: called } = part.call;
        const call = { id: newId("fc"), type: "function_call", call_id: callId, name: called.name };
        const item = { ...call, arguments: called.arguments, status: "completed" };
        events.push(
          {
            type: "response.output_item.added",
            output_index: output.length,
            item: { ...call, arguments: "", status: "in_progress" },
          },
          { type: "response.function_call_arguments.delta", ...at(call.id), delta: called.arguments },
          { type: "response.function_call_arguments.done", ...at(call.id), name: called.name, arguments: called.arguments },
          { type: "response.output_item.done", output_index: output.length, item },
        );
        output.push(item);
        return events;
      }
      if ("reasoning" in part) {
        const events = continued("reasoning");
        open!.text += part.reasoning;
        return [...events, { type: "response.reasoning_text.delta", ...inside(open!.id), delta: part.reasoning }];
      }
      const events = continued("text");
      const logprobs = tokens.map(({ view }) => view);
      open!.text += part.text;
      open!.logprobs.push(...logprobs);
      return [...events, { type: "response.output_text.delta", ...inside(open!.id), delta: part.text, logprobs }];
    },
    end(status) {
      const isEmpty = open === null && !output.some((item) => !("type" in item) || item.type !== "reasoning");
      return [...(isEmpty ? begin("text") : []), ...end(status)];
    },
  };
}

function partOf({ kind, text, logprobs }: Open): object {
  return kind === "text"
    ? { type: "output_text", text, annotations: [], logprobs: [...logprobs] }
    : { type: "reasoning_text", text };
}

function itemOf(open: Open, status: Status, isWhole: boolean): object {
  const content = isWhole ? [partOf(open)] : [];
  return open.kind === "text"
    ? { id: open.id, type: "message", status, role: "assistant", content }
    : { id: open.id, type: "reasoning", status, summary: [], content };
}
