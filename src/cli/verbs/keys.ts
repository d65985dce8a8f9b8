import { z } from "zod";
import { UserError } from "../../base/errors.ts";
import { flagName, suggestion } from "../../base/names.ts";
import { createKey, deleteKey, type Key, keyOptionsSchema, listKeys, newKeyOptionsSchema } from "../../library/keys.ts";
import { validateConfig } from "../flags/config-file.ts";
import { describeFlags, parseFlags } from "../flags/flags.ts";
import { JSON_FLAG } from "../flags/model-flags.ts";
import { printEvent } from "../terminal/display.ts";
import { print } from "../terminal/output.ts";

const { home, name, scopes } = newKeyOptionsSchema.shape;

export const flags = z.strictObject({
  home,
  name: name.optional().describe(`create: ${name.description}`),
  scopes: scopes.optional().describe(`create: ${scopes.description}`),
  ...JSON_FLAG,
});

export const words = ["create", "list", "delete"] as const;

export function help(): string {
  return `Makes, lists and deletes keys of a server with a home, while it runs too. The first key closes the server to all who have none.

Usage: remat keys create --home DIR --name NAME --scopes infer,train
       remat keys list --home DIR
       remat keys delete ID --home DIR

create prints the key alone on standard output, this once: the home has its hash.

${describeFlags(flags)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const { values, words: given } = parseFlags(flags, args);
  const { json, ...options } = validateConfig(flags, values);
  const [action = "list", ...rest] = given;
  if (action !== "delete" && rest.length > 0)
    throw new UserError(`keys ${action} takes no words, got ${JSON.stringify(rest[0])}`);
  if (action !== "create") {
    const strange = (["name", "scopes"] as const).find((key) => options[key] !== undefined);
    if (strange !== undefined) throw new UserError(`${flagName(strange)} is for keys create`);
  }
  switch (action) {
    case "list":
      return list(options, json);
    case "create": {
      const { secret, ...key } = createKey(validateConfig(newKeyOptionsSchema, { ...options }));
      if (json) printEvent({ ...eventOf(key), key: secret });
      else {
        process.stderr.write(`${lineOf(key)}\n`);
        print(secret);
      }
      return 0;
    }
    case "delete": {
      if (rest.length !== 1) throw new UserError("keys delete takes the id of one key; remat keys list shows them");
      const key = deleteKey(rest[0]!, { home: options.home });
      if (json) printEvent({ ...eventOf(key), deleted: true });
      else print(`${lineOf(key)}: deleted`);
      if (listKeys({ home: options.home }).length === 0) process.stderr.write(OPEN);
      return 0;
    }
    default:
      throw new UserError(`keys has no action ${JSON.stringify(action)}${suggestion(action, words)}`);
  }
}

const OPEN = "there is no key: whoever reaches the server may do everything, unless it has an --api-key\n";

function list({ home: folder }: { readonly home: string }, json: boolean): number {
  const keys = listKeys(keyOptionsSchema.parse({ home: folder }));
  for (const key of keys) {
    if (json) printEvent(eventOf(key));
    else print(lineOf(key));
  }
  if (keys.length === 0) process.stderr.write(OPEN);
  return 0;
}

const eventOf = ({ createdAt, ...key }: Key) => ({ type: "key" as const, ...key, created_at: createdAt });

const lineOf = ({ id, name: called, scopes: opened, createdAt }: Key): string =>
  `${id}  ${new Date(1000 * createdAt).toISOString().slice(0, 10)}  ${opened.join(",").padEnd("infer,train,admin".length)}  ${called}`;
