import { createHash, timingSafeEqual } from "node:crypto";
import { UserError } from "../../base/errors.ts";
import { show } from "../../base/json.ts";
import { ApiError } from "./errors.ts";

/** The callers that may ask. */
export interface GuardOptions {
  /** Without a key everyone who reaches the server may. */
  readonly apiKey: string | null;
  /** An origin whose pages may read the answers, or `*`. */
  readonly cors: string | null;
  /** The server listens on this machine only. */
  readonly isLocal: boolean;
}

export interface Guard {
  /** @throws {ApiError} */
  check(request: Request, url: URL): void;
  /** Returns what a browser wants to read beside an answer. */
  headers(request: Request): Record<string, string>;
}

export function createGuard({ apiKey, cors, isLocal }: GuardOptions): Guard {
  const expected = apiKey === null ? null : digest(`Bearer ${apiKey}`);
  return {
    check(request, url) {
      if (expected !== null) {
        // Digests have the same length, and comparing them takes the same time whatever they are.
        if (!timingSafeEqual(digest(request.headers.get("authorization") ?? ""), expected)) {
          throw new ApiError(401, "a key is needed: Authorization: Bearer KEY", {
            code: "invalid_api_key",
            headers: { "www-authenticate": "Bearer" },
          });
        }
      } else if (isLocal && !isLoopback(url.hostname)) {
        // A web page whose name was made to lead here would be of the same origin as the server.
        throw new ApiError(403, `the server is for this machine, and not ${url.hostname}; --api-key KEY opens it to other names`);
      }
    },
    headers(request): Record<string, string> {
      if (cors === null) return {};
      return {
        "access-control-allow-origin": cors,
        ...(request.method === "OPTIONS"
          ? {
              "access-control-allow-methods": "GET, POST",
              "access-control-allow-headers": request.headers.get("access-control-request-headers") ?? "",
              "access-control-max-age": "600",
            }
          : {}),
      };
    },
  };
}

/**
 * The address that a request is for. A request without a host comes from no web page, and is for this machine.
 * @throws {ApiError} a Host header that no host has
 */
export function addressOf(request: Request): URL {
  const host = request.headers.get("host") ?? "";
  // Two headers are joined by a comma.
  const url = host.includes(",") ? null : URL.parse(host === "" ? `http://localhost${request.url}` : request.url);
  if (url === null) throw new ApiError(400, `the Host header ${show(host)} is not a host`, { code: "invalid_host" });
  return url;
}

/**
 * An origin as browsers write it in their requests (https://www.rfc-editor.org/rfc/rfc6454#section-6.2), or `*`.
 * @throws {UserError} a text that is the origin of no web page
 */
export function readOrigin(text: string): string {
  if (text === "*" || text === "null") return text;
  const [, scheme, rest] = /^([a-z][a-z0-9+.-]*):\/\/([^/?#@\s]+)\/?$/i.exec(text) ?? [];
  const url = scheme === undefined ? null : URL.parse(`${scheme}://${rest}`);
  if (url === null) {
    const near = /^[\w.-]+(?::\d+)?\/?$/.test(text) ? `http://${text.replace(/\/$/, "")}` : "http://localhost:3000";
    throw new UserError(`--cors: expected an origin (scheme, host and port, such as ${near}) or *, got ${show(text)}`);
  }
  // The origin of other schemes, such as a browser extension's, has no general form.
  return url.origin === "null" ? `${scheme}://${rest}`.toLowerCase() : url.origin;
}

/** @throws {UserError} a key that a request's header cannot carry, which is not repeated */
export function checkApiKey(key: string, name: string): void {
  if (/^[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?$/.test(key)) return;
  throw new UserError(`${name}: expected letters, digits and signs of ASCII without white space around them; choose another key`);
}

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

/** Tells whether a name means this machine and nothing else. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || hostname === "::1" || /^127(?:\.\d{1,3}){3}$/.test(hostname);
}
