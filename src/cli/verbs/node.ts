import { node, nodeOptionsSchema } from "../../library/fleet/node.ts";
import { describeFlags } from "../flags/flags.ts";
import { readFlags } from "../flags/model-flags.ts";

export { nodeOptionsSchema as flags };

export function help(): string {
  return `Runs fine-tuning jobs of a fleet on this machine: those that clients give to remat serve --home DIR --fleet ..., somewhere else.
It has no front of its own, needs nothing but the fleet's NATS server, and runs jobs only, never code. Ctrl-C or SIGTERM has its jobs save, and others go on with them.

Usage: remat node --fleet nats://HOST:4222 --home DIR [--flag value ...]

${describeFlags(nodeOptionsSchema)}`;
}

export async function run(args: readonly string[]): Promise<number> {
  const options = readFlags("node", nodeOptionsSchema, args);
  const say = (line: string) => process.stderr.write(`${line}\n`);
  const started = await node(options, { onMessage: say });
  say(`node ${started.name} takes jobs; Ctrl-C has them save and gives them back`);
  const why = await Promise.race([interrupted(), started.failed]);
  await started.stop();
  if (why !== null) throw why;
  return 0;
}

/** Resolves at Ctrl-C or at a request to end; a second one ends the process at once. */
function interrupted(): Promise<null> {
  return new Promise((done) => {
    const end = () => {
      process.off("SIGINT", end);
      process.off("SIGTERM", end);
      done(null);
    };
    process.on("SIGINT", end);
    process.on("SIGTERM", end);
  });
}
