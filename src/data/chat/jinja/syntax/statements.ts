import { TemplateError } from "../errors.ts";
import type { Parser } from "./parser.ts";
import { type Body, CONSTANTS, type Expression, type Parameter, type Statement, type Target } from "./tree.ts";

type Read = (parser: Parser, line: number) => Statement | Statement[];

/** Reads a tag from its name on, and the tags that belong to it, up to the last one's `%}`. */
export function parseStatement(parser: Parser): Statement[] {
  const { type, value, line } = parser.token;
  const read = type === "name" ? TAGS.get(value) : undefined;
  if (!read)
    parser.fail(type === "name" ? `there is no tag '${value}' here` : `expected the name of a tag, got ${parser.shown()}`);
  parser.next();
  return [read(parser, line)].flat();
}

/** Reads what has no part in the loop around it. */
function apart<Result>(parser: Parser, read: () => Result): Result {
  const { loops } = parser;
  parser.loops = 0;
  try {
    return read();
  } finally {
    parser.loops = loops;
  }
}

const TAGS: ReadonlyMap<string, Read> = new Map<string, Read>([
  ["for", readFor],
  ["if", readIf],
  ["set", readSet],
  ["with", readWith],
  ["macro", readMacro],
  ["call", readCall],
  ["block", readBlock],
  ["print", readPrint],
  ["break", (parser, line) => leaving(parser, "break", line)],
  ["continue", (parser, line) => leaving(parser, "continue", line)],
  ["generation", (parser, line) => ({ type: "generation", body: apart(parser, () => parser.blockBody("endgeneration")), line })],
  [
    "filter",
    (parser, line) => {
      const filter = parser.filters(null, true)!;
      return { type: "filter block", filter, body: apart(parser, () => parser.blockBody("endfilter")), line };
    },
  ],
  [
    // Chat templates are rendered without escaping; the tag is a scope.
    "autoescape",
    (parser, line) => {
      parser.expression();
      return { type: "with", values: [], body: parser.blockBody("endautoescape"), line };
    },
  ],
  ...["include", "import", "from", "extends"].map((tag): [string, Read] => [
    tag,
    (parser, line) => {
      while (!parser.is("tag end") && !parser.is("end")) parser.next();
      return { type: "other template", tag, line };
    },
  ]),
]);

function leaving(parser: Parser, type: "break" | "continue", line: number): Statement {
  if (parser.loops === 0) throw new TemplateError(`{% ${type} %} stands outside a loop`, line);
  return { type, line };
}

function readFor(parser: Parser, line: number): Statement {
  parser.inFor++;
  const target = readTarget(parser, { end: "in" });
  parser.expect("name", "in");
  const items = parser.tuple({ choices: false, end: "recursive" });
  const test = parser.skip("name", "if") ? parser.expression() : null;
  const recursive = parser.skip("name", "recursive");
  parser.loops++;
  const body = parser.bodyUntil(["endfor", "else"]);
  parser.loops--;
  const otherwise = parser.next().value === "else" ? parser.blockBody("endfor") : [];
  parser.inFor--;
  return { type: "for", target, items, test, recursive, body, otherwise, line };
}

function readIf(parser: Parser, line: number): Statement {
  const branches: [Expression, Body][] = [];
  for (;;) {
    const test = parser.tuple({ choices: false });
    branches.push([test, parser.bodyUntil(["elif", "else", "endif"])]);
    const { value } = parser.next();
    if (value === "elif") continue;
    return { type: "if", branches, otherwise: value === "else" ? parser.blockBody("endif") : [], line };
  }
}

function readSet(parser: Parser, line: number): Statement {
  const target = readTarget(parser, { attributes: true });
  if (parser.skip("operator", "=")) return { type: "set", target, value: parser.tuple(), line };
  const filter = parser.filters(null);
  return { type: "set block", target, filter, body: apart(parser, () => parser.blockBody("endset")), line };
}

function readWith(parser: Parser, line: number): Statement {
  const values: [Target, Expression][] = [];
  while (!parser.is("tag end")) {
    if (values.length > 0) parser.expect("operator", ",");
    const target = readTarget(parser, { bindings: true });
    parser.expect("operator", "=");
    values.push([target, parser.expression()]);
  }
  return { type: "with", values, body: parser.blockBody("endwith"), line };
}

function readMacro(parser: Parser, line: number): Statement {
  const { name } = readName(parser);
  const parameters = readParameters(parser);
  return { type: "macro", name, parameters, body: apart(parser, () => parser.blockBody("endmacro")), line };
}

function readCall(parser: Parser, line: number): Statement {
  const parameters = parser.isOperator("(") ? readParameters(parser) : [];
  const call = parser.expression();
  if (call.type !== "call") throw new TemplateError("{% call %} needs the call of a macro", line);
  return { type: "call block", call, parameters, body: apart(parser, () => parser.blockBody("endcall")), line };
}

function readBlock(parser: Parser, line: number): Statement {
  const name = parser.expect("name").value;
  if (parser.blocks.has(name)) throw new TemplateError(`the block '${name}' is defined twice`, line);
  parser.blocks.add(name);
  const scoped = parser.skip("name", "scoped");
  if (parser.skip("name", "required"))
    throw new TemplateError(`the block '${name}' is required, and no other template fills it`, line);
  const body = apart(parser, () => parser.blockBody("endblock"));
  parser.skip("name", name);
  return { type: "block", name, scoped, body, line };
}

function readPrint(parser: Parser, line: number): Statement[] {
  const prints: Statement[] = [];
  while (!parser.is("tag end")) {
    if (prints.length > 0) parser.expect("operator", ",");
    prints.push({ type: "print", value: parser.expression(), line });
  }
  return prints;
}

function readParameters(parser: Parser): Parameter[] {
  const parameters: Parameter[] = [];
  parser.expect("operator", "(");
  while (!parser.skip("operator", ")")) {
    if (parameters.length > 0) parser.expect("operator", ",");
    const { name } = readName(parser);
    const otherwise = parser.skip("operator", "=") ? parser.expression() : null;
    if (otherwise === null && parameters.some((before) => before.otherwise !== null))
      parser.fail(`the parameter '${name}' without a default follows one with a default`);
    if (parameters.some((before) => before.name === name)) parser.fail(`the parameter '${name}' is there twice`);
    parameters.push({ name, otherwise });
  }
  return parameters;
}

function readName(parser: Parser): { readonly type: "name"; readonly name: string } {
  const name = parser.expect("name").value;
  if (CONSTANTS.has(name)) parser.fail(`${name} cannot be assigned to`);
  return { type: "name", name };
}

interface TargetOptions {
  /** Attributes of namespaces are targets too. */
  readonly attributes?: boolean;
  /** The names are those of a block of its own, so that `loop` is one like any other. */
  readonly bindings?: boolean;
  /** The name behind the target. */
  readonly end?: string;
}

/** A name, or several with commas between, in brackets or not. */
function readTarget(parser: Parser, options: TargetOptions): Target {
  const items: Target[] = [];
  let isTuple = false;
  while (!parser.is("tag end") && !parser.isOperator(")", "=") && !(options.end && parser.is("name", options.end))) {
    items.push(readOneTarget(parser, options));
    if (!parser.skip("operator", ",")) break;
    isTuple = true;
  }
  if (items.length === 0) parser.fail(`expected a name, got ${parser.shown()}`);
  return isTuple ? { type: "tuple", items } : items[0]!;
}

function readOneTarget(parser: Parser, options: TargetOptions): Target {
  if (parser.skip("operator", "(")) {
    const target = parser.nested(() => readTarget(parser, { bindings: options.bindings }));
    parser.expect("operator", ")");
    return target;
  }
  const target = readName(parser);
  if (target.name === "loop" && parser.inFor > 0 && !options.bindings) parser.fail("loop cannot be assigned to in a loop");
  if (!options.attributes || !parser.skip("operator", ".")) return target;
  return { type: "attribute", of: target.name, name: parser.expect("name").value };
}
