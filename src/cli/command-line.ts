import { version } from "../../package.json" with { type: "json" };
import { messageOf, UserError } from "../base/errors.ts";
import type { VerbEvent } from "../train/run/events.ts";
import { suggestion } from "../base/names.ts";
import { ALIASES, type Verb } from "./flags/verb.ts";
import { CHILDREN, VERBS } from "./verbs.ts";
import { print } from "./terminal/output.ts";

/**
 * Runs `remat <verb> ...`, and returns the exit code. A `UserError` is printed as one message, without a stack trace, and has its
 * code (2 unless it says otherwise); anything else is a bug and keeps its trace.
 */
export async function runCommandLine(args: readonly string[]): Promise<number> {
  try {
    return await run(args);
  } catch (error) {
    if (error instanceof UserError) {
      process.stderr.write(`remat: ${error.message}\n`);
      tellProgram(args, error.message, error.exitCode);
      return error.exitCode;
    }
    process.stderr.write(
      `remat: internal error (please report it): ${error instanceof Error ? (error.stack ?? error.message) : messageOf(error)}\n`,
    );
    tellProgram(args, `internal error: ${messageOf(error)}`, 1);
    return 1;
  }
}

async function run(args: readonly string[]): Promise<number> {
  const [name, ...rest] = Object.hasOwn(ALIASES, args[0] ?? "") ? [...ALIASES[args[0]!]!, ...args.slice(1)] : args;
  if (name === undefined || name === "--help" || name === "-h" || name === "help") {
    print(overview());
    return 0;
  }
  if (name === "--version") {
    print(version);
    return 0;
  }
  if (Object.hasOwn(CHILDREN, name)) return (await CHILDREN[name]!()).run(rest);
  const verb: Verb | undefined = Object.hasOwn(VERBS, name) ? VERBS[name] : undefined;
  if (!verb) {
    const { verbFor } = await import("./flags/other-systems.ts");
    const other = verbFor(name);
    const hint = other === null ? suggestion(name, Object.keys(VERBS)) : `; it is ${other} here`;
    throw new UserError(`unknown verb ${JSON.stringify(name)}${hint}`);
  }
  const module = await verb.load();
  if (rest.includes("--help") || rest.includes("-h")) {
    print(module.help());
    return 0;
  }
  return module.run(rest, VERBS);
}

function overview(): string {
  const width = Math.max(...Object.keys(VERBS).map((name) => name.length)) + 2;
  const rows = Object.entries(VERBS).map(([name, verb]) => `  ${name.padEnd(width)}${verb.summary}`);
  return `Fine-tunes language models inside Bun, with gradient checkpointing on by default.\n\nUsage: remat <verb> ...\n\n${rows.join("\n")}\n\nremat <verb> --help explains a verb.`;
}

/** A program that reads events is told of an error on the same stream. */
function tellProgram(args: readonly string[], message: string, exitCode: number): void {
  const at = args.findLastIndex((arg) => arg.startsWith("--json"));
  if (at < 0 || !/^--json(=true)?$/i.test(args[at]!) || args[at + 1]?.toLowerCase() === "false") return;
  const event: VerbEvent = { type: "error", message, exitCode };
  process.stdout.write(`${JSON.stringify(event)}\n`);
}
