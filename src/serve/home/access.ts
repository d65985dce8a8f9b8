import { appendFileSync } from "node:fs";
import { createHash, timingSafeEqual } from "node:crypto";
import type { KeyStore } from "../../jobs/home/keys.ts";
import type { Scope } from "../../jobs/home/scopes.ts";
import { ApiError } from "../http/errors.ts";
import { isLoopback } from "../http/guard.ts";

/** Somebody who asks. */
export interface Caller {
  /** For the audit: a key's name, or how else the caller came in. */
  readonly name: string;
  readonly scopes: ReadonlySet<Scope>;
}

/** The scope of the keys that open a route; `anyone`: no key is needed, by a name that the server may be called by; null: by any name. */
export type RouteScope = Scope | "anyone" | null;

export interface Access {
  /** Finds who asks for what is open to a scope. @throws {ApiError} a caller without a key where one is needed, or a web page of elsewhere */
  callerFor(scope: RouteScope, request: Request, url: URL): Caller;
  /** Returns what a browser wants to read beside an answer. */
  headers(request: Request): Record<string, string>;
}

export interface AccessOptions {
  /** Opens everything; null: the keys in the home alone do. */
  readonly apiKey: string | null;
  readonly keys: KeyStore;
  /** An origin whose pages may ask, or `*`. */
  readonly cors: string | null;
  /** The server listens on this machine only. */
  readonly isLocal: boolean;
}

const ANYONE: Caller = { name: "anyone", scopes: new Set() };

const ALL: ReadonlySet<Scope> = new Set(["infer", "train", "admin"]);

/** Without any key everyone who reaches the server may ask for everything, as long as no key has been made. */
export function createAccess({ apiKey, keys, cors, isLocal }: AccessOptions): Access {
  const digest = (text: string) => createHash("sha256").update(text).digest();
  const expected = apiKey === null ? null : digest(apiKey);
  const isOpen = () => expected === null && keys.count === 0;
  const checkPlace = (request: Request, url: URL) => {
    checkOrigin(request, url, cors);
    // A web page whose name was made to lead here would be of the same origin as the server.
    if (isOpen() && isLocal && !isLoopback(url.hostname))
      throw new ApiError(403, `the server is for this machine, and not ${url.hostname}; --api-key KEY opens it to other names`);
  };
  const keyHolder = (request: Request): Caller => {
    if (isOpen()) return { ...ANYONE, scopes: ALL };
    const [, secret = ""] = /^Bearer (.+)$/.exec(request.headers.get("authorization") ?? "") ?? [];
    // Digests have the same length, and comparing them takes the same time whatever they are.
    if (expected !== null && timingSafeEqual(digest(secret), expected)) return { name: "--api-key", scopes: ALL };
    const key = keys.find(secret);
    if (key !== null) return { name: key.name, scopes: key.scopes.includes("admin") ? ALL : new Set(key.scopes) };
    throw new ApiError(401, "a key is needed: Authorization: Bearer KEY", {
      code: "invalid_api_key",
      headers: { "www-authenticate": "Bearer" },
    });
  };
  return {
    callerFor(scope, request, url) {
      if (scope === null) return ANYONE;
      checkPlace(request, url);
      return scope === "anyone" ? ANYONE : keyHolder(request);
    },
    headers(request): Record<string, string> {
      if (cors === null) return {};
      return {
        "access-control-allow-origin": cors,
        ...(request.method === "OPTIONS"
          ? {
              "access-control-allow-methods": "GET, POST, DELETE",
              "access-control-allow-headers": request.headers.get("access-control-request-headers") ?? "",
              "access-control-max-age": "600",
            }
          : {}),
      };
    },
  };
}

/**
 * A browser sends forms to any server without asking it, and says whose page it was. What changes something is taken from the server's own
 * pages and those of `--cors`.
 */
function checkOrigin(request: Request, url: URL, cors: string | null): void {
  const origin = request.headers.get("origin");
  if (origin === null || ["GET", "HEAD"].includes(request.method)) return;
  // A proxy in front of the server may have spoken TLS with the page's browser, which has another scheme then.
  if (URL.parse(origin)?.host === url.host || cors === "*" || origin === cors) return;
  throw new ApiError(403, `pages of ${origin} may not ask this server; --cors ${origin} lets them`, { code: "origin_refused" });
}

/** @throws {ApiError} a caller whose key is for something else */
export function checkScope({ name, scopes }: Caller, scope: RouteScope): void {
  if (scope === null || scope === "anyone" || scopes.has(scope)) return;
  throw new ApiError(403, `the key ${name} has no scope ${scope}, which this takes; it has ${[...scopes].join(", ")}`, {
    code: "insufficient_scope",
  });
}

/** The name of the audit in a home. */
export const AUDIT_FILE = "audit.jsonl";

/** Appends lines that say who changed what. */
export interface Audit {
  add(line: { readonly caller: string; readonly method: string; readonly path: string; readonly status: number }): void;
}

export function createAudit(path: string): Audit {
  return {
    add(line) {
      try {
        appendFileSync(path, `${JSON.stringify({ at: new Date().toISOString(), ...line })}\n`, { mode: 0o600 });
      } catch {
        // A full disk stops no answer.
      }
    },
  };
}
