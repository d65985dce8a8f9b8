import { tokenize } from "./lexer.ts";
import { Parser } from "./parser.ts";
import { parseStatement } from "./statements.ts";
import type { Body } from "./tree.ts";

/** Reads a template. @throws {TemplateError} with the line of the fault */
export function parse(source: string): Body {
  return new Parser(tokenize(source), parseStatement).body([]);
}
