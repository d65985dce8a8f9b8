import { TemplateError } from "../errors.ts";
import { equal } from "../values/compare.ts";
import { iterate, lengthOf } from "../values/items.ts";
import { Callable, orElse, Tuple, Undefined, type Value } from "../values/values.ts";

/** Describes what `loop` is within a loop. Items are fetched one ahead only when somebody asks what comes next. */
export class Loop {
  /** The value of the variable `loop`. */
  readonly value: Callable;
  private index0 = -1;
  private items: Iterator<Value>;
  private length: number | null;
  private current: Value | undefined;
  private before: Value | undefined;
  /** undefined: not fetched; null: there is none. */
  private ahead: { readonly value: Value } | null | undefined;
  private lastChanged: Value | undefined;

  /** @param recurse renders the body for other items; null: the loop is not recursive */
  constructor(
    source: Value,
    private readonly depth0: number,
    recurse: ((items: Value) => string) | null,
    items: Iterable<Value> = iterate(source),
    hasLength = true,
  ) {
    this.items = items[Symbol.iterator]();
    this.length = hasLength ? lengthOf(source) : null;
    const call = (positional: readonly Value[]): string => {
      if (!recurse) throw new TemplateError("The loop must have the 'recursive' marker to be called recursively.");
      if (positional.length !== 1) throw new TemplateError("loop() takes the items to go through");
      return recurse(positional[0]!);
    };
    this.value = new Callable(
      "loop",
      call,
      (name) => this.attribute(name),
      () => `<LoopContext ${this.index0 + 1}/${this.size()}>`,
    );
  }

  /** The next item; undefined: there is none. */
  next(): Value | undefined {
    const next = this.peek();
    if (next === null) return undefined;
    this.ahead = undefined;
    this.index0++;
    this.before = this.current;
    this.current = next.value;
    return next.value;
  }

  private peek(): { readonly value: Value } | null {
    if (this.ahead === undefined) {
      const next = this.items.next();
      this.ahead = next.done ? null : { value: next.value };
    }
    return this.ahead;
  }

  private size(): number {
    if (this.length === null) {
      const rest = Array.from({ [Symbol.iterator]: () => this.items });
      this.items = rest.values();
      this.length = rest.length + this.index0 + 1 + (this.ahead ? 1 : 0);
    }
    return this.length;
  }

  private attribute(name: string): Value | undefined {
    switch (name) {
      case "index":
        return this.index0 + 1;
      case "index0":
        return this.index0;
      case "revindex":
        return this.size() - this.index0;
      case "revindex0":
        return this.size() - this.index0 - 1;
      case "first":
        return this.index0 === 0;
      case "last":
        return this.peek() === null;
      case "length":
        return this.size();
      case "depth":
        return this.depth0 + 1;
      case "depth0":
        return this.depth0;
      case "previtem":
        return this.index0 === 0 ? new Undefined(null, undefined, "there is no previous item") : this.before;
      case "nextitem":
        return orElse(this.peek()?.value, new Undefined(null, undefined, "there is no next item"));
      case "cycle":
        return new Callable("cycle", (items) => {
          if (items.length === 0) throw new TemplateError("no items for cycling given");
          return items[this.index0 % items.length]!;
        });
      case "changed":
        return new Callable("changed", (items) => {
          const value = new Tuple(items);
          if (this.lastChanged !== undefined && equal(this.lastChanged, value)) return false;
          this.lastChanged = value;
          return true;
        });
      default:
        return undefined;
    }
  }
}
