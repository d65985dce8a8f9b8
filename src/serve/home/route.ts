import type { AnswerReport } from "../answers.ts";
import type { Routes } from "../http/routes.ts";
import type { Caller, RouteScope } from "./access.ts";

/** A request on its way through a route. */
export interface Asked {
  readonly request: Request;
  readonly url: URL;
  readonly params: Readonly<Record<string, string>>;
  readonly caller: Caller;
  /** An answer may be long in coming. */
  wait(): void;
  report(answer: AnswerReport): void;
}

export interface HomeRoute {
  readonly scope: RouteScope;
  /** @throws {ApiError} */
  handle(asked: Asked): Response | Promise<Response>;
}

export type HomeRoutes = Routes<HomeRoute>;
