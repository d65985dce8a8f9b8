import { attribute, item } from "../library/access.ts";
import { binary, unary } from "../values/arithmetic.ts";
import { compare } from "../values/compare.ts";
import { TemplateError } from "../errors.ts";
import { findFilter, findTest } from "../library/library.ts";
import { ITEM_BYTES, OBJECT_BYTES, spend } from "../meter.ts";
import { methodOf } from "../library/methods.ts";
import { iterate, slice } from "../values/items.ts";
import { called, type Scope } from "./scope.ts";
import type { Arguments, Expression } from "../syntax/tree.ts";
import { concatenate, str } from "../values/text.ts";
import {
  Callable,
  Dict,
  Float,
  int,
  type Named,
  NO_NAMES,
  orElse,
  truth,
  Tuple,
  typeName,
  Undefined,
  type Value,
} from "../values/values.ts";

/** Expressions as functions of the scope, made once for a template and called for every rendering. */
export type Evaluate = (scope: Scope) => Value;

export function compileExpression(node: Expression): Evaluate {
  switch (node.type) {
    case "constant": {
      const { value } = node;
      return () => value;
    }
    case "integer": {
      const value = int(BigInt(node.text));
      return () => value;
    }
    case "float": {
      const value = new Float(Number(node.text));
      return () => value;
    }
    case "name": {
      const { name } = node;
      const missing = new Undefined(name);
      return (scope) => orElse(scope.get(name), missing);
    }
    case "list": {
      const items = node.items.map(compileExpression);
      return (scope) => evaluateAll(items, scope);
    }
    case "tuple": {
      const items = node.items.map(compileExpression);
      return (scope) => new Tuple(evaluateAll(items, scope));
    }
    case "dict": {
      const items = node.items.map(([key, value]) => [compileExpression(key), compileExpression(value)] as const);
      return (scope) => {
        spend(OBJECT_BYTES * (1 + items.length));
        return Dict.of(items.map(([key, value]) => [key(scope), value(scope)]));
      };
    }
    case "concat": {
      const items = node.items.map(compileExpression);
      return (scope) => concatenate(items.map((evaluate) => str(evaluate(scope))));
    }
    case "attribute": {
      const [object, { name }] = [compileExpression(node.object), node];
      return (scope) => attribute(object(scope), name);
    }
    case "item": {
      const [object, key] = [compileExpression(node.object), compileExpression(node.key)];
      return (scope) => item(object(scope), key(scope));
    }
    case "slice": {
      const object = compileExpression(node.object);
      const [start, stop, stride] = node.bounds.map((bound) => (bound ? compileExpression(bound) : () => null)) as [
        Evaluate,
        Evaluate,
        Evaluate,
      ];
      return (scope) => slice(object(scope), [start(scope), stop(scope), stride(scope)]);
    }
    case "unary": {
      const [operand, { operator }] = [compileExpression(node.operand), node];
      return operator === "not" ? (scope) => !truth(operand(scope)) : (scope) => unary(operator, operand(scope));
    }
    case "binary": {
      const [left, right, { operator }] = [compileExpression(node.left), compileExpression(node.right), node];
      return (scope) => binary(operator, left(scope), right(scope));
    }
    case "logical": {
      const [left, right, isAnd] = [compileExpression(node.left), compileExpression(node.right), node.operator === "and"];
      return (scope) => {
        const value = left(scope);
        return truth(value) === isAnd ? right(scope) : value;
      };
    }
    case "compare":
      return compileCompare(node);
    case "choice": {
      const [test, yes] = [compileExpression(node.test), compileExpression(node.yes)];
      const missing = new Undefined(
        null,
        undefined,
        "the inline if-expression evaluated to false and no else section was defined.",
      );
      const no = node.no ? compileExpression(node.no) : () => missing;
      return (scope) => (truth(test(scope)) ? yes(scope) : no(scope));
    }
    case "call":
      return compileCall(node);
    case "filter": {
      if (!node.operand) throw new TemplateError("a filter without a value");
      return compileFilter(node, compileExpression(node.operand));
    }
    case "test": {
      const test = named(node, () => findTest(node.name));
      const [operand, args] = [compileExpression(node.operand), compileArguments(node.args)];
      return (scope) => {
        const value = operand(scope);
        const { positional, named: names } = args(scope);
        return test.invoke(value, positional, names);
      };
    }
  }
}

/** Looks something up by its name, for which a template is refused at its line. */
function named<Found>({ line }: { readonly line: number }, find: () => Found): Found {
  try {
    return find();
  } catch (error) {
    throw error instanceof TemplateError ? new TemplateError(error.message, line) : error;
  }
}

function evaluateAll(items: readonly Evaluate[], scope: Scope): Value[] {
  spend(OBJECT_BYTES + ITEM_BYTES * items.length);
  return items.map((evaluate) => evaluate(scope));
}

function compileCompare(node: Expression & { readonly type: "compare" }): Evaluate {
  const first = compileExpression(node.first);
  const rest = node.rest.map(([operator, operand]) => [operator, compileExpression(operand)] as const);
  const [operator, second] = rest[0]!;
  if (rest.length === 1) return (scope) => compare(operator, first(scope), second(scope));
  return (scope) => {
    let left = first(scope);
    for (const [each, operand] of rest) {
      const right = operand(scope);
      if (!compare(each, left, right)) return false;
      left = right;
    }
    return true;
  };
}

/** A filter on what `operand` gives. */
export function compileFilter(node: Expression & { readonly type: "filter" }, operand: Evaluate): Evaluate {
  const filter = named(node, () => findFilter(node.name));
  const args = compileArguments(node.args);
  return (scope) => {
    const value = operand(scope);
    const { positional, named: names } = args(scope);
    return filter.invoke(value, positional, names);
  };
}

export interface Given {
  readonly positional: readonly Value[];
  readonly named: Named;
}

const NOTHING: Given = { positional: [], named: NO_NAMES };

export function compileArguments({ positional, named: names, list, dict }: Arguments): (scope: Scope) => Given {
  const values = positional.map(compileExpression);
  const pairs = names.map(([name, value]) => [name, compileExpression(value)] as const);
  if (!list && !dict && pairs.length === 0) {
    if (values.length === 0) return () => NOTHING;
    return (scope) => ({ positional: values.map((evaluate) => evaluate(scope)), named: NO_NAMES });
  }
  const [more, moreNamed] = [list && compileExpression(list), dict && compileExpression(dict)];
  return (scope) => {
    const all = values.map((evaluate) => evaluate(scope));
    const map = new Map<string, Value>();
    for (const [name, evaluate] of pairs) map.set(name, evaluate(scope));
    if (more) {
      for (const value of iterate(more(scope))) {
        spend(ITEM_BYTES);
        all.push(value);
      }
    }
    if (moreNamed) {
      const given = moreNamed(scope);
      if (!(given instanceof Dict)) throw new TemplateError(`the argument after ** must be a mapping, not ${typeName(given)}`);
      for (const [name, value] of given.entries()) {
        if (typeof name !== "string") throw new TemplateError("keywords must be strings");
        if (map.has(name)) throw new TemplateError(`got multiple values for keyword argument '${name}'`);
        map.set(name, value);
      }
    }
    return { positional: all, named: map };
  };
}

/** @param extra an argument by name that the template does not write: `caller` */
export function compileCall(
  node: Expression & { readonly type: "call" },
  extra?: (scope: Scope) => readonly [string, Value],
): Evaluate {
  const args = compileArguments(node.args);
  const given = (scope: Scope): Given => {
    const { positional, named: names } = args(scope);
    return extra ? { positional, named: new Map([...names, extra(scope)]) } : { positional, named: names };
  };
  const { callee } = node;
  if (callee.type === "attribute") {
    const [object, { name }] = [compileExpression(callee.object), callee];
    return (scope) => {
      const value = object(scope);
      const method = methodOf(value, name);
      if (!method) return call(attribute(value, name), given(scope), scope);
      const { positional, named: names } = given(scope);
      return method.invoke(value, positional, names);
    };
  }
  const evaluate = compileExpression(callee);
  return (scope) => call(evaluate(scope), given(scope), scope);
}

function call(callee: Value, { positional, named: names }: Given, { rendering }: Scope): Value {
  if (callee instanceof Undefined) callee.fail();
  if (!(callee instanceof Callable)) throw new TemplateError(`'${typeName(callee)}' object is not callable`);
  return called(rendering, callee.name, () => callee.call(positional, names));
}
