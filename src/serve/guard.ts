import { createHash, timingSafeEqual } from "node:crypto";
import { ApiError } from "./errors.ts";

/** Who may ask. */
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
  /** What a browser wants to read beside an answer. */
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

function digest(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}

/** Whether a name means this machine and nothing else. */
export function isLoopback(hostname: string): boolean {
  return hostname === "localhost" || hostname === "[::1]" || hostname === "::1" || /^127(?:\.\d{1,3}){3}$/.test(hostname);
}
