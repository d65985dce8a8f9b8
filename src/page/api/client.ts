/** A request that the server has refused, or that did not come to it. */
export class Problem extends Error {
  override name = "Problem";

  constructor(
    message: string,
    /** null: the server was not reached. */
    readonly status: number | null,
    readonly param: string | null = null,
  ) {
    super(message);
  }
}

/** The place of the key, which is forgotten with the tab. */
const KEY = "remat-key";

let askForKey: (() => Promise<string>) | null = null;
let asking: Promise<void> | null = null;

/** Says how somebody is asked for a key. */
export function setKeyDialog(ask: () => Promise<string>): void {
  askForKey = ask;
}

/** The headers that say who asks. */
export function keyHeaders(): Readonly<Record<string, string>> {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { authorization: `Bearer ${key}` };
}

/** Paths are relative to the page, which a proxy may have put under one of its own. */
export const addressOf = (path: string): URL => new URL(path.replace(/^\//, ""), document.baseURI.replace(/#.*/, ""));

/** Sends a request, with the key where there is one, and asks for one where it is needed. @throws {Problem} */
export async function request(path: string, init: RequestInit = {}): Promise<Response> {
  for (;;) {
    const key = sessionStorage.getItem(KEY);
    const headers = { ...(init.headers as Readonly<Record<string, string>> | undefined), ...keyHeaders() };
    let response: Response;
    try {
      response = await fetch(addressOf(path), { ...init, headers });
    } catch (error) {
      if (init.signal?.aborted === true) throw error;
      throw new Problem("the server does not answer", null);
    }
    if (response.status === 401 && askForKey !== null) {
      // Several requests that need a key ask for it once.
      if (key === sessionStorage.getItem(KEY))
        asking ??= askForKey().then((given) => {
          sessionStorage.setItem(KEY, given);
          asking = null;
        });
      await asking;
      continue;
    }
    if (response.ok) return response;
    throw await problemOf(response);
  }
}

async function problemOf(response: Response): Promise<Problem> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as { error: { message: string; param: string | null } };
    return new Problem(error.message, response.status, error.param);
  } catch {
    return new Problem(`the server answered with ${response.status}`, response.status);
  }
}

/** @throws {Problem} */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  return (await (await request(path, signal ? { signal } : {})).json()) as T;
}

/** @throws {Problem} */
export async function send<T>(path: string, body: unknown = {}, init: RequestInit = {}): Promise<T> {
  const headers = { ...(init.headers as Record<string, string> | undefined), "content-type": "application/json" };
  return (await (await request(path, { method: "POST", body: JSON.stringify(body), ...init, headers })).json()) as T;
}

export const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));
