import { ApiError } from "./errors.ts";

/** Routes by the pattern of their path, then by method. */
export type Routes<R> = Readonly<Record<string, Readonly<Record<string, R>>>>;

export interface FoundRoute<R> {
  readonly route: R;
  /** By the pattern's names, as the path has them. */
  readonly params: Readonly<Record<string, string>>;
}

/**
 * Finds routes by pattern and method. In a pattern `:name` stands for a part of the path, at its end `*name` for all of the rest, were it empty. Earlier
 * patterns go first.
 */
export function createRouter<R>(routes: Routes<R>): (method: string, path: string) => FoundRoute<R> {
  const patterns = Object.entries(routes).map(([pattern, methods]) => ({ match: matcherOf(pattern), methods }));
  return (method, path) => {
    for (const { match, methods } of patterns) {
      const params = match(path);
      if (params === null) continue;
      const route = methods[method === "HEAD" ? "GET" : method];
      if (route) return { route, params };
      const allow = Object.keys(methods).join(", ");
      throw new ApiError(405, `${path} takes ${allow}, not ${method}`, { code: "method_not_allowed", headers: { allow } });
    }
    throw new ApiError(404, `there is no ${path} here`, { code: "unknown_url" });
  };
}

type Matcher = (path: string) => Readonly<Record<string, string>> | null;

function matcherOf(pattern: string): Matcher {
  if (!/[:*]/.test(pattern)) return (path) => (path === pattern ? {} : null);
  const source = pattern
    .split("/")
    .map((part) =>
      part.startsWith(":")
        ? `(?<${part.slice(1)}>[^/]+)`
        : part.startsWith("*")
          ? `(?<${part.slice(1)}>.*)`
          : RegExp.escape(part),
    )
    .join("/");
  const expression = new RegExp(`^${source}$`);
  return (path) => {
    return expression.exec(path)?.groups ?? null;
  };
}

/** A part of a path; one that is not written as parts of paths are stands for itself. */
export function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
