import { z } from "zod";
import type { KeyRecord, KeyStore } from "../../jobs/home/keys.ts";
import { KEY_NAME, SCOPES } from "../../jobs/home/scopes.ts";
import { readJson } from "../http/body.ts";
import { ApiError } from "../http/errors.ts";
import { notFound } from "./lists.ts";
import type { HomeRoutes } from "./route.ts";

const keyRequest = z.strictObject({
  name: z.string().regex(KEY_NAME.pattern, { error: `expected ${KEY_NAME.description}` }),
  scopes: z.array(z.enum(SCOPES)).min(1),
});

/** Keys of clients. The first key closes the server to those without one: it has to be one that can make others. */
export function keyRoutes(keys: KeyStore, hasApiKey: boolean): HomeRoutes {
  return {
    "/v1/keys": {
      GET: { scope: "admin", handle: () => Response.json({ object: "list", data: keys.list().map(viewOf), has_more: false }) },
      POST: {
        scope: "admin",
        handle: async ({ request }) => {
          const result = keyRequest.safeParse(await readJson(request));
          if (!result.success) {
            const issue = result.error.issues[0]!;
            const param = issue.path.map(String).join(".") || null;
            throw new ApiError(400, `${param ?? "the request's body"}: ${issue.message}`, { param, code: "invalid_value" });
          }
          const { name, scopes } = result.data;
          if (!hasApiKey && keys.count === 0 && !scopes.includes("admin")) {
            throw new ApiError(400, "scopes: the first key needs the scope admin, or nobody could make another one", {
              param: "scopes",
              code: "invalid_value",
            });
          }
          const { key, secret } = keys.create(name, [...new Set(scopes)]);
          return Response.json({ ...viewOf(key), key: secret });
        },
      },
    },
    "/v1/keys/:id": {
      DELETE: {
        scope: "admin",
        handle({ params }) {
          const id = params["id"]!;
          if (!keys.delete(id)) throw notFound("key", id);
          return Response.json({ id, object: "key", deleted: true });
        },
      },
    },
  };
}

const viewOf = ({ id, name, scopes, created_at }: KeyRecord) => ({ id, object: "key", name, scopes, created_at });
