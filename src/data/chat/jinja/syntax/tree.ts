import type { BinaryOperator } from "../values/arithmetic.ts";
import type { Comparison } from "../values/compare.ts";

/** The syntax tree of a template. */
export type Expression =
  | { readonly type: "constant"; readonly value: null | boolean | string }
  /** A number as it is written. */
  | { readonly type: "integer" | "float"; readonly text: string }
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "list" | "tuple" | "concat"; readonly items: readonly Expression[] }
  | { readonly type: "dict"; readonly items: readonly (readonly [Expression, Expression])[] }
  | { readonly type: "attribute"; readonly object: Expression; readonly name: string }
  | { readonly type: "item"; readonly object: Expression; readonly key: Expression }
  | { readonly type: "slice"; readonly object: Expression; readonly bounds: readonly [Bound, Bound, Bound] }
  | { readonly type: "call"; readonly callee: Expression; readonly args: Arguments }
  /** An operand of null is the text of the block around it. */
  | {
      readonly type: "filter";
      readonly operand: Expression | null;
      readonly name: string;
      readonly args: Arguments;
      readonly line: number;
    }
  | {
      readonly type: "test";
      readonly operand: Expression;
      readonly name: string;
      readonly args: Arguments;
      readonly line: number;
    }
  | { readonly type: "unary"; readonly operator: "not" | "-" | "+"; readonly operand: Expression }
  | { readonly type: "binary"; readonly operator: BinaryOperator; readonly left: Expression; readonly right: Expression }
  | { readonly type: "logical"; readonly operator: "and" | "or"; readonly left: Expression; readonly right: Expression }
  | { readonly type: "compare"; readonly first: Expression; readonly rest: readonly (readonly [Comparison, Expression])[] }
  | { readonly type: "choice"; readonly test: Expression; readonly yes: Expression; readonly no: Expression | null };

export type Bound = Expression | null;

export interface Arguments {
  readonly positional: readonly Expression[];
  readonly named: readonly (readonly [string, Expression])[];
  /** `*list` and `**dict`. */
  readonly list: Expression | null;
  readonly dict: Expression | null;
}

/** A place for a value; `of` is the namespace whose attribute it is. */
export type Target =
  | { readonly type: "name"; readonly name: string }
  | { readonly type: "attribute"; readonly of: string; readonly name: string }
  | { readonly type: "tuple"; readonly items: readonly Target[] };

export interface Parameter {
  readonly name: string;
  readonly otherwise: Expression | null;
}

export type Body = readonly Statement[];

export type Statement = { readonly line: number } & (
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "print"; readonly value: Expression }
  | { readonly type: "set"; readonly target: Target; readonly value: Expression }
  | { readonly type: "set block"; readonly target: Target; readonly filter: Expression | null; readonly body: Body }
  | {
      readonly type: "for";
      readonly target: Target;
      readonly items: Expression;
      readonly test: Expression | null;
      readonly recursive: boolean;
      readonly body: Body;
      readonly otherwise: Body;
    }
  | { readonly type: "break" | "continue" }
  | { readonly type: "if"; readonly branches: readonly (readonly [Expression, Body])[]; readonly otherwise: Body }
  | { readonly type: "with"; readonly values: readonly (readonly [Target, Expression])[]; readonly body: Body }
  | { readonly type: "macro"; readonly name: string; readonly parameters: readonly Parameter[]; readonly body: Body }
  | { readonly type: "call block"; readonly call: Expression; readonly parameters: readonly Parameter[]; readonly body: Body }
  | { readonly type: "filter block"; readonly filter: Expression; readonly body: Body }
  | { readonly type: "block"; readonly name: string; readonly scoped: boolean; readonly body: Body }
  | { readonly type: "generation"; readonly body: Body }
  /** A template in another file; a chat template has none beside it. */
  | { readonly type: "other template"; readonly tag: string }
);

/** Names that are values. */
export const CONSTANTS: ReadonlyMap<string, boolean | null> = new Map([
  ["true", true],
  ["True", true],
  ["false", false],
  ["False", false],
  ["none", null],
  ["None", null],
]);
