import { UserError } from "../../base/errors.ts";

/** Describes what a request is refused with: OpenAI's shape, so that its clients raise their own exceptions. */
export interface ErrorBody {
  readonly error: {
    readonly message: string;
    readonly type: "invalid_request_error" | "rate_limit_error" | "server_error";
    /** The field of the request. */
    readonly param: string | null;
    readonly code: string | null;
  };
}

/** A refusal with its HTTP status. https://platform.openai.com/docs/guides/error-codes */
export class ApiError extends Error {
  override name = "ApiError";
  readonly param: string | null;
  readonly code: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    readonly status: number,
    message: string,
    details: { readonly param?: string | null; readonly code?: string; readonly headers?: Readonly<Record<string, string>> } = {},
  ) {
    super(message);
    this.param = details.param ?? null;
    this.code = details.code ?? null;
    this.headers = details.headers ?? {};
  }

  get body(): ErrorBody {
    const type = this.status === 429 ? "rate_limit_error" : this.status >= 500 ? "server_error" : "invalid_request_error";
    return { error: { message: this.message, type, param: this.param, code: this.code } };
  }
}

/** Turns an error that users can mend into a client's mistake. @param param the field that `make` reads */
export function refusing<T>(param: string | null, code: string, make: () => T): T {
  try {
    return make();
  } catch (error) {
    throw refusal(param, code, error);
  }
}

/** The same of what is still being made. */
export async function refusingLater<T>(param: string | null, code: string, made: Promise<T>): Promise<T> {
  try {
    return await made;
  } catch (error) {
    throw refusal(param, code, error);
  }
}

function refusal(param: string | null, code: string, error: unknown): unknown {
  return error instanceof UserError ? new ApiError(400, error.message, { param, code }) : error;
}

export function errorResponse(error: ApiError): Response {
  return Response.json(error.body, { status: error.status, headers: error.headers });
}

/** Nobody waits for the answer any more; the status is nginx's. */
export function clientGone(): ApiError {
  return new ApiError(499, "the client is gone");
}

/** The answer was cut because the server ends. */
export function stopping(): ApiError {
  return new ApiError(503, "the server is stopping", { code: "server_stopping" });
}

/** A bug, which is `cause`; clients are not told more. An `ApiError` stays what it is. */
export function internalError(cause: unknown): ApiError {
  if (cause instanceof ApiError) return cause;
  const error = new ApiError(500, "internal error; the server's log has more", { code: "internal_error" });
  error.cause = cause;
  return error;
}
