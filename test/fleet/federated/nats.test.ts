import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openFleet } from "../../../src/fleet/fleet.ts";
import { followFederations } from "../../../src/fleet/front/federations.ts";
import { temporaryFolder } from "../../hf/temp.ts";
import { root, writeTinyModel } from "../../support/cli.ts";
import { writeExamples } from "../../support/federated.ts";
import { NATS_SERVER, type NatsServer, startNats } from "../../support/nats.ts";
import { SLOW } from "../../support/slow.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (...parts: string[]) => join(folder, ...parts);

interface Child {
  readonly events: Record<string, unknown>[];
  /** Resolves when the process has told an event of a type for which `wanted` holds. */
  seen(type: string, wanted?: (event: Record<string, unknown>) => boolean): Promise<Record<string, unknown>>;
  kill(): Promise<void>;
  readonly ended: Promise<{ readonly code: number; readonly stderr: string }>;
}

const children: { kill(signal: NodeJS.Signals): void }[] = [];
afterAll(() => children.forEach((child) => child.kill("SIGKILL")));

/** Starts `remat federate` in a process of its own and reads what it tells. */
function start(args: readonly string[]): Child {
  const child = Bun.spawn([process.execPath, join(root, "src/cli/main.ts"), "federate", ...args, "--json"], {
    stdout: "pipe",
    stderr: "pipe",
    stdin: "ignore",
  });
  children.push(child);
  const events: Record<string, unknown>[] = [];
  let wake: () => void = () => {};
  const stderr = new Response(child.stderr).text();
  const read = (async () => {
    let rest = "";
    const decoder = new TextDecoder();
    for await (const chunk of child.stdout) {
      const lines = (rest + decoder.decode(chunk, { stream: true })).split("\n");
      rest = lines.pop()!;
      events.push(...lines.map((line) => JSON.parse(line) as Record<string, unknown>));
      wake();
    }
    wake();
  })();
  const ended = Promise.all([child.exited, stderr, read]).then(([code, text]) => ({ code, stderr: text }));
  return {
    events,
    ended,
    async seen(type, wanted = () => true) {
      for (;;) {
        const found = events.find((event) => event["type"] === type && wanted(event));
        if (found) return found;
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`the process ended without ${type}: ${(await ended).stderr}`);
        await new Promise<void>((resolve) => (wake = resolve));
      }
    },
    async kill() {
      child.kill("SIGKILL");
      await child.exited;
    },
  };
}

describe.skipIf(NATS_SERVER === null || !SLOW)("by NATS, in processes", () => {
  let nats: NatsServer;
  beforeAll(async () => {
    nats = await startNats();
  });
  afterAll(() => nats?.close());

  test("coordinator and node are killed, NATS too: all rounds end, and both have the same adapter", async () => {
    const model = writeTinyModel(path("model"), { num_hidden_layers: 1 });
    const data = ["king house", "water tree"].map((words, i) =>
      writeExamples(
        path(`${i}.jsonl`),
        words.split(" ").map((word) => [`Define ${word}.`, `n. A ${word}.`] as const),
      ),
    );
    const reach = ["--fleet", nats.url];
    const leading = [
      "lead",
      ...reach,
      "--model",
      model,
      "--output",
      path("lead"),
      "--rounds",
      "6",
      "--local-steps",
      "2",
      "--nodes",
      "2",
    ];
    const settings = ["--freeze-a", "--rank", "2", "--learning-rate", "1e-2", "--sequence-length", "32"];
    const joining = (i: number) => [
      "join",
      ...reach,
      "--node",
      `n${i}`,
      "--model",
      model,
      "--data",
      data[i]!,
      "--valid",
      data[i]!,
      "--output",
      path(`n${i}`),
      "--threads",
      "1",
    ];
    let lead = start([...leading, ...settings]);
    await lead.seen("leading");
    const first = start(joining(0));
    let second = start(joining(1));
    await lead.seen("round", ({ round }) => round === 1);
    await lead.kill();
    await second.kill();
    lead = start([...leading, ...settings]);
    const again = await lead.seen("leading");
    expect(again["round"]).toBeGreaterThanOrEqual(2);
    second = start(joining(1));
    await lead.seen("round", ({ round }) => round === 3);
    await nats.restart();
    const rival = start([...leading, ...settings]);
    expect((await rival.ended).code).toBe(2);
    const results = await Promise.all([lead.ended, first.ended, second.ended]);
    expect(results.map(({ code, stderr }) => [code, stderr])).toEqual(results.map(({ stderr }) => [0, stderr]));
    const numbers = lead.events.at(-1)!;
    expect(numbers).toMatchObject({ type: "federated", rounds: 6 });
    expect(Object.keys(numbers["nodes"] as object).sort()).toEqual(["n0", "n1"]);
    const adapters = ["lead", "n0", "n1"].map((name) => readFileSync(path(name, "adapter_model.safetensors")));
    expect(adapters[1]!.equals(adapters[2]!)).toBe(true);
    expect(adapters[0]!.equals(adapters[1]!)).toBe(true);
    expect(existsSync(path("lead", "adapter_config.json"))).toBe(true);
    // Who watches the fleet finds all rounds, those before the coordinator was killed too.
    const fleet = await openFleet({ fleet: nats.url }, "watch");
    const federations = followFederations(fleet);
    const find = () => federations.find(String(again["run"]), 0);
    let told = await find();
    while (told === null || told.data.length < 6) {
      await Bun.sleep(20);
      told = await find();
    }
    expect([told.status, told.valid_loss, told.nodes]).toEqual(["succeeded", numbers["heldOut"] as number, ["n0", "n1"]]);
    expect(told.data.map(({ round, nodes }) => [round, nodes.length])).toEqual([1, 2, 3, 4, 5, 6].map((round) => [round, 2]));
    federations.end();
    await fleet.close();
  });
});
