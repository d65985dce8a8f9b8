import { show } from "../../base/json.ts";
import { BASE } from "./endpoint.ts";
import { ApiError } from "../http/errors.ts";
import type { Route } from "../http/service.ts";
import type { Routes } from "../http/routes.ts";

/** The routes that describe the one model of a server. */
export function modelRoutes(name: string): { readonly routes: Routes<Route>; check(asked: string | undefined): void } {
  const described = { id: name, object: "model", created: Math.floor(Date.now() / 1000), owned_by: "remat" };
  /** @throws {ApiError} another model */
  const check = (asked: string | undefined): void => {
    if (asked === undefined || asked === name) return;
    throw new ApiError(404, `there is no model ${show(asked)} here, but ${show(name)}`, {
      param: "model",
      code: "model_not_found",
    });
  };
  return {
    check,
    routes: {
      [`${BASE}/models`]: { GET: () => Response.json({ object: "list", data: [described] }) },
      [`${BASE}/models/*name`]: {
        GET: ({ name: asked }) => (check(asked === encodeURIComponent(name) ? name : asked), Response.json(described)),
      },
    },
  };
}
