import type { Scope } from "../../jobs/home/keys.ts";
import type { AnswerReport } from "../answers.ts";
import type { Routes } from "../http/routes.ts";
import type { Caller } from "./access.ts";

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
  /** Whose keys open it; null: everybody's who may ask at all. */
  readonly scope: Scope | null;
  /** @throws {ApiError} */
  handle(asked: Asked): Response | Promise<Response>;
}

export type HomeRoutes = Routes<HomeRoute>;
