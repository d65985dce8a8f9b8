import { show } from "../../base/json.ts";
import { ApiError } from "../http/errors.ts";

/** The JSON that an answer has to be. */
export interface JsonFormat {
  readonly kind: "json";
  /** null: any object. */
  readonly schema: unknown;
  /** The field of the request, and the place of the schema in it. */
  readonly param: string;
  readonly path: string;
}

/** The calls of which an answer has to be one, or up to a number of them. */
export interface CallFormat {
  readonly kind: "calls";
  readonly tools: readonly ToolAsk[];
  readonly most: number;
  readonly param: string;
}

export type Format = JsonFormat | CallFormat;

/** A tool of a request, and the place of its parameters in it. */
export interface ToolAsk {
  readonly name: string;
  /** undefined: any object. */
  readonly parameters: unknown;
  readonly path: string;
}

/** What a request says of calls; a name is that of the only tool that is to be called. */
export type ToolChoice = "auto" | "none" | "required" | { readonly name: string };

/** Calls in a row, at most, where they are required. */
const MOST_CALLS = 8;

export interface FormatAsk {
  readonly json: JsonFormat | null;
  readonly tools: readonly ToolAsk[];
  readonly choice: ToolChoice;
  /** false: there is one call at most. */
  readonly parallel: unknown;
}

/** The form that a request wants its answer in; null: any text. @throws {ApiError} JSON beside tools, a choice of a tool that is not there */
export function chooseFormat({ json, tools, choice, parallel }: FormatAsk): Format | null {
  const refuse = (param: string, problem: string): never => {
    throw new ApiError(400, `${param}: ${problem}`, { param, code: "invalid_value" });
  };
  const isForced = choice !== "auto" && choice !== "none";
  if (json !== null && choice !== "none" && tools.length > 0)
    refuse(json.param, 'a form and calls of tools are not supported together; tool_choice "none" leaves the tools out');
  if (!isForced) return json;
  const param = "tool_choice";
  if (tools.length === 0) refuse(param, "there are no tools to be called");
  const named = choice === "required" ? tools : tools.filter(({ name }) => name === choice.name);
  if (named.length === 0) refuse(param, `there is no tool ${show(choice === "required" ? "" : choice.name)}`);
  return { kind: "calls", tools: named, most: choice === "required" && parallel !== false ? MOST_CALLS : 1, param };
}
