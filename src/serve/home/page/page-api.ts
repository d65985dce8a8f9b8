import { notFound } from "../lists.ts";
import type { HomeRoutes } from "../route.ts";
import { BUNDLED, INDEX, type PageFile, pageFiles, type PageFiles } from "./bundle.ts";

/**
 * The page asks nothing of elsewhere, runs no script but its own, and is in no other page's frame. Charts set the places of their parts by
 * script, which needs no exception for styles.
 */
const SECURITY: Readonly<Record<string, string>> = {
  "content-security-policy":
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "x-frame-options": "DENY",
  "referrer-policy": "no-referrer",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-resource-policy": "same-origin",
  "permissions-policy": "camera=(), microphone=(), geolocation=()",
};

/** Bytes below which a file is not worth packing. */
const LEAST_PACKED = 1024;

/** The page for browsers. It holds nothing of the home: what it shows it asks for by the API, with a key where there are keys. */
export function pageRoutes(): HomeRoutes {
  let bundled: Promise<PageFiles> | null = null;
  const packed = new Map<string, Uint8Array<ArrayBuffer>>();
  const files = async (): Promise<PageFiles> => {
    bundled ??= pageFiles();
    try {
      return await bundled;
    } catch (error) {
      // Sources that were in the middle of being replaced may be whole the next time.
      bundled = null;
      throw error;
    }
  };
  const answer = (request: Request, name: string, { type, bytes }: PageFile): Response => {
    const takesGzip = /\bgzip\b/.test(request.headers.get("accept-encoding") ?? "") && bytes.length >= LEAST_PACKED;
    if (takesGzip && !packed.has(name)) packed.set(name, Bun.gzipSync(bytes));
    return new Response(takesGzip ? packed.get(name)! : bytes, {
      headers: {
        ...SECURITY,
        "content-type": type,
        // A name with a hash in it never means other bytes.
        "cache-control": name === INDEX ? "no-cache" : "public, max-age=31536000, immutable",
        vary: "accept-encoding",
        ...(takesGzip ? { "content-encoding": "gzip" } : {}),
      },
    });
  };
  return {
    "/": {
      GET: {
        scope: "anyone",
        handle: async ({ request }) => answer(request, INDEX, (await files()).get(INDEX)!),
      },
    },
    [`/${BUNDLED}/:name`]: {
      GET: {
        scope: "anyone",
        handle: async ({ request, params }) => {
          const name = params["name"]!;
          const file = (await files()).get(name);
          if (file === undefined) throw notFound("file of the page", name);
          return answer(request, name, file);
        },
      },
    },
  };
}
