import { TemplateError } from "../../../../src/data/chat/jinja/errors.ts";
import { parseTemplate, runTemplate } from "../../../../src/data/chat/jinja/template.ts";

/** Returns what a template that is refused says; of another the length of its text. */
export function outcome(source: string, variables: Readonly<Record<string, unknown>> = {}): string {
  try {
    return `rendered ${runTemplate(parseTemplate(source), { messages: [{ role: "user", content: "hi" }], ...variables }, new Date(0)).length} characters`;
  } catch (error) {
    if (error instanceof TemplateError) return error.message;
    throw error;
  }
}
