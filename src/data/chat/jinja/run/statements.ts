import { compileCall, compileExpression, compileFilter, type Evaluate } from "./expressions.ts";
import { TemplateError } from "../errors.ts";
import { Loop } from "./loop.ts";
import { OBJECT_BYTES, SCOPE_STEPS, spend, step } from "../meter.ts";
import { iterate } from "../values/items.ts";
import { captured, type Scope } from "./scope.ts";
import type { Body, Expression, Parameter, Statement, Target } from "../syntax/tree.ts";
import { str } from "../values/text.ts";
import { Callable, Dict, Namespace, orElse, truth, Tuple, typeName, Undefined, type Value } from "../values/values.ts";

/** How a statement ended: `break` and `continue` go up to the loop. */
type Signal = "break" | "continue" | undefined;
export type Execute = (scope: Scope) => Signal;

export function compileBody(body: Body): Execute {
  const statements = body.map(compileStatement);
  if (statements.length === 1) return statements[0]!;
  return (scope) => {
    for (const statement of statements) {
      const signal = statement(scope);
      if (signal !== undefined) return signal;
    }
    return undefined;
  };
}

/** Counts a statement and notes its line. */
function begin({ rendering }: Scope, line: number): void {
  step();
  rendering.line = line;
}

function write({ rendering }: Scope, text: string): void {
  spend(text.length);
  rendering.out += text;
}

function compileStatement(node: Statement): Execute {
  const { line } = node;
  switch (node.type) {
    case "text": {
      const { text } = node;
      return (scope) => void write(scope, text);
    }
    case "print": {
      const value = compileExpression(node.value);
      return (scope) => {
        begin(scope, line);
        return void write(scope, str(value(scope)));
      };
    }
    case "set": {
      const [value, { target }] = [compileExpression(node.value), node];
      return (scope) => {
        begin(scope, line);
        return void assign(target, value(scope), scope);
      };
    }
    case "set block":
      return compileSetBlock(node);
    case "for":
      return compileFor(node);
    case "break":
    case "continue":
      return () => node.type;
    case "if":
      return compileIf(node);
    case "with": {
      const values = node.values.map(([target, value]) => [target, compileExpression(value)] as const);
      const body = compileBody(node.body);
      return (scope) => {
        begin(scope, line);
        const inner = scope.inner();
        for (const [target, value] of values) assign(target, value(scope), inner);
        return body(inner);
      };
    }
    case "macro": {
      const macro = compileMacro(node.name, node.parameters, node.body);
      return (scope) => {
        begin(scope, line);
        return void scope.set(node.name, macro(scope));
      };
    }
    case "call block": {
      const macro = compileMacro("caller", node.parameters, node.body);
      const call = compileCall(node.call as Expression & { type: "call" }, (scope) => ["caller", macro(scope)]);
      return (scope) => {
        begin(scope, line);
        return void write(scope, str(call(scope)));
      };
    }
    case "filter block": {
      const filtered = compileFilters(node.filter, node.body);
      return (scope) => {
        begin(scope, line);
        return void write(scope, str(filtered(scope)));
      };
    }
    case "block":
      return compileBlock(node);
    case "generation": {
      const body = compileBody(node.body);
      return (scope) => {
        begin(scope, line);
        const text = captured(scope.rendering, () => body(scope.inner()));
        const { mark } = scope.rendering;
        return void write(scope, mark + text + mark);
      };
    }
    case "other template":
      return (scope) => {
        begin(scope, line);
        throw new TemplateError(`{% ${node.tag} %} needs another template, and a chat template stands alone`);
      };
  }
}

function assign(target: Target, value: Value, scope: Scope): void {
  if (target.type === "name") scope.set(target.name, value);
  else if (target.type === "attribute") {
    const namespace = scope.get(target.of);
    if (!(namespace instanceof Namespace)) throw new TemplateError("cannot assign attribute on non-namespace object");
    if (target.name.startsWith("_"))
      throw new TemplateError(`the attribute '${target.name}' of a namespace begins with an underscore`);
    spend(OBJECT_BYTES);
    namespace.attributes.set(target.name, value);
  } else {
    const { items } = target;
    const values: Value[] = [];
    for (const one of iterable(value)) {
      if (values.length === items.length) throw new TemplateError(`too many values to unpack (expected ${items.length})`);
      values.push(one);
    }
    if (values.length < items.length)
      throw new TemplateError(`not enough values to unpack (expected ${items.length}, got ${values.length})`);
    for (const [i, one] of values.entries()) assign(items[i]!, one, scope);
  }
}

function iterable(value: Value): Iterable<Value> {
  try {
    return iterate(value);
  } catch (error) {
    throw error instanceof TemplateError ? new TemplateError(`cannot unpack ${typeName(value)}, which has no items`) : error;
  }
}

function compileIf(node: Statement & { readonly type: "if" }): Execute {
  const branches = node.branches.map(([test, body]) => [compileExpression(test), compileBody(body)] as const);
  const otherwise = compileBody(node.otherwise);
  return (scope) => {
    begin(scope, node.line);
    for (const [test, body] of branches) if (truth(test(scope))) return body(scope);
    return otherwise(scope);
  };
}

/** The text of a body, through the filters of its tag. */
function compileFilters(filter: Expression | null, block: Body): Evaluate {
  const body = compileBody(block);
  const text: Evaluate = (scope) => captured(scope.rendering, () => body(scope.inner()));
  const through = (node: Expression | null): Evaluate =>
    node?.type === "filter" ? compileFilter(node, through(node.operand)) : text;
  return through(filter);
}

function compileSetBlock(node: Statement & { readonly type: "set block" }): Execute {
  const value = compileFilters(node.filter, node.body);
  return (scope) => {
    begin(scope, node.line);
    return void assign(node.target, value(scope), scope);
  };
}

function compileFor(node: Statement & { readonly type: "for" }): Execute {
  const { target, line, recursive } = node;
  const items = compileExpression(node.items);
  const test = node.test && compileExpression(node.test);
  const body = compileBody(node.body);
  const otherwise = compileBody(node.otherwise);

  function* chosen(source: Value, scope: Scope): Generator<Value> {
    for (const value of iterate(source)) {
      step(SCOPE_STEPS);
      const inner = scope.inner();
      assign(target, value, inner);
      if (truth(test!(inner))) yield value;
    }
  }
  const run = (source: Value, scope: Scope, depth: number): Signal => {
    const recurse = (values: Value): string => captured(scope.rendering, () => run(values, scope, depth + 1));
    const loop = test
      ? new Loop(source, depth, recursive ? recurse : null, chosen(source, scope), false)
      : new Loop(source, depth, recursive ? recurse : null);
    let isEmpty = true;
    for (let value = loop.next(); value !== undefined; value = loop.next()) {
      begin(scope, line);
      step(SCOPE_STEPS);
      const inner = scope.inner();
      inner.set("loop", loop.value);
      assign(target, value, inner);
      const signal = body(inner);
      if (signal === "break") break;
      // The other body runs where no turn came to its end.
      if (signal === undefined) isEmpty = false;
    }
    return isEmpty ? otherwise(scope.inner()) : undefined;
  };
  return (scope) => {
    begin(scope, line);
    return run(items(scope), scope, 0);
  };
}

function compileBlock(node: Statement & { readonly type: "block" }): Execute {
  const body = compileBody(node.body);
  return (scope) => {
    begin(scope, node.line);
    return void body((node.scoped ? scope : scope.outermost()).inner());
  };
}

/** The value of the variable `self`: its attributes are the blocks of the template. */
export function compileSelf(template: Body): (scope: Scope) => Callable {
  const blocks = new Map(blocksIn(template).map(({ name, body }) => [name, compileBody(body)]));
  const refuse = (): never => {
    throw new TemplateError("'TemplateReference' object is not callable");
  };
  return (scope) => {
    const block = (name: string): Callable | undefined => {
      const body = blocks.get(name);
      return body && new Callable(name, () => captured(scope.rendering, () => body(scope.outermost().inner())));
    };
    return new Callable("self", refuse, block, () => "<TemplateReference None>");
  };
}

function blocksIn(part: unknown): (Statement & { readonly type: "block" })[] {
  if (typeof part !== "object" || part === null) return [];
  const inner = Object.values(part).flatMap(blocksIn);
  return (part as Statement).type === "block" ? [part as Statement & { readonly type: "block" }, ...inner] : inner;
}

const NO_CALLER = new Undefined("caller", undefined, "No caller defined");

/** A macro as a value of the scope that it is defined in, whose variables it sees. */
function compileMacro(name: string, parameters: readonly Parameter[], block: Body): (scope: Scope) => Callable {
  const body = compileBody(block);
  const defaults = parameters.map(({ otherwise }) => otherwise && compileExpression(otherwise));
  const names = parameters.map((parameter) => parameter.name);
  const missing = names.map((each) => new Undefined(each, undefined, `parameter '${each}' was not provided`));
  const uses = namesIn(block);
  const takesCaller = uses.has("caller") && !names.includes("caller");
  const refuse = (why: string): never => {
    throw new TemplateError(`macro '${name}' ${why}`);
  };
  return (scope) =>
    new Callable(
      name,
      (positional, named) => {
        const inner = scope.inner();
        const rest = new Map(named);
        for (const [i, parameter] of names.entries()) {
          let value: Value | undefined = positional[i];
          if (value === undefined) {
            value = rest.get(parameter);
            rest.delete(parameter);
          }
          if (value === undefined) value = defaults[i]?.(inner);
          inner.set(parameter, orElse(value, missing[i]!));
        }
        if (takesCaller) {
          inner.set("caller", orElse(rest.get("caller"), NO_CALLER));
          rest.delete("caller");
        }
        if (uses.has("kwargs")) inner.set("kwargs", Dict.of(rest));
        else if (rest.size > 0) refuse(`takes no keyword argument '${[...rest.keys()][0]!}'`);
        if (uses.has("varargs")) inner.set("varargs", new Tuple(positional.slice(names.length)));
        else if (positional.length > names.length) refuse(`takes not more than ${names.length} argument(s)`);
        return captured(scope.rendering, () => body(inner));
      },
      (attribute) => {
        if (attribute === "name") return name;
        if (attribute === "arguments") return new Tuple(names);
        if (attribute === "catch_kwargs") return uses.has("kwargs");
        if (attribute === "catch_varargs") return uses.has("varargs");
        return attribute === "caller" ? takesCaller : undefined;
      },
      () => (name === "caller" ? "<Macro 'caller'>" : `<Macro '${name}'>`),
    );
}

/** All names of variables in a part of the tree. */
function namesIn(part: unknown, found = new Set<string>()): Set<string> {
  if (typeof part !== "object" || part === null) return found;
  const { type, name } = part as { readonly type?: unknown; readonly name?: unknown };
  if (type === "name") found.add(name as string);
  for (const child of Object.values(part)) namesIn(child, found);
  return found;
}
