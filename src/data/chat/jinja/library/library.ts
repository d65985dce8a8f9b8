import type { Builtin } from "./builtin.ts";
import { TemplateError } from "../errors.ts";
import { listFilters } from "./filters-lists.ts";
import { TEXT_FILTERS } from "./filters-text.ts";
import { allTests } from "./tests.ts";

/** All filters and tests by name. */

export function findFilter(name: string): Builtin {
  const found = FILTERS.get(name);
  if (!found) throw new TemplateError(`No filter named '${name}'`);
  return found;
}

export function findTest(name: string): Builtin {
  const found = TESTS.get(name);
  if (!found) throw new TemplateError(`No test named '${name}'`);
  return found;
}

const FILTERS: ReadonlyMap<string, Builtin> = new Map([...TEXT_FILTERS, ...listFilters({ filter: findFilter, test: findTest })]);
const TESTS = allTests({ hasFilter: (name) => FILTERS.has(name), hasTest: (name) => TESTS.has(name) });
