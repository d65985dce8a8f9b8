import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { createRandom } from "../src/base/random.ts";
import { writeRandomAdapter } from "../test/support/adapters.ts";
import { BASE, writeBase } from "../test/support/box.ts";
import { treeBytes } from "../test/support/process-tree.ts";
import { startServerProcess } from "../test/support/server-kills.ts";
import { createWasmExecutor } from "../src/wasm/executor.ts";

/**
 * Many clients at once, for some minutes: each asks for an answer of the base model or of one of its adapters, waits for it, rests and asks
 * again; a client that is told to come back later (429) does. Counts the answers and errors by status, the memory of the server over time,
 * and the time to the first token against what the queue explains: as many answers as were asked for before and not ended yet, each in the
 * time that an answer takes, by so many at a time as there are caches.
 *
 *     bun bench/server-clients.ts --clients 100 --minutes 10
 */
const { values } = parseArgs({
  options: {
    clients: { type: "string", default: "100" },
    minutes: { type: "string", default: "10" },
    adapters: { type: "string", default: "4" },
    tokens: { type: "string", default: "16" },
    /** Milliseconds that a client rests, at most. */
    rest: { type: "string", default: "2000" },
  },
});
const PLACES = 8;
const WAITING = 64;
const folder = mkdtempSync(join(tmpdir(), "remat-server-clients-"));
const percentile = (numbers: readonly number[], share: number): number =>
  [...numbers].sort((a, b) => a - b)[Math.min(numbers.length - 1, Math.floor(share * numbers.length))] ?? NaN;

interface Answered {
  readonly first: number;
  readonly whole: number;
  /** Requests that came earlier and had not ended. */
  readonly ahead: number;
}

try {
  const model = writeBase(folder);
  const executor = await createWasmExecutor({ threads: 1 });
  const adapters = join(folder, "adapters");
  mkdirSync(adapters);
  const names = Array.from({ length: Number(values.adapters) }, (_, i) => `adapter-${i}`);
  names.forEach((name, i) => writeRandomAdapter(executor, model, join(adapters, name), { rank: 8 }, i));
  executor.close();
  const more = `--adapters ${adapters} --conversations ${PLACES} --waiting ${WAITING} --threads 2`.split(" ");
  const { child, box } = await startServerProcess(join(folder, "home"), model, more);
  const answered: Answered[] = [];
  const statuses = new Map<string, number>();
  const count = (what: string) => statuses.set(what, (statuses.get(what) ?? 0) + 1);
  let pending = 0;
  const end = performance.now() + 60_000 * Number(values.minutes);

  const ask = async (name: string, text: string): Promise<number> => {
    const ahead = pending++;
    const begin = performance.now();
    try {
      const response = await box.ask("/v1/chat/completions", {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: JSON.stringify({
          model: name,
          messages: [{ role: "user", content: text }],
          max_tokens: Number(values.tokens),
          stream: true,
        }),
      });
      count(String(response.status));
      if (!response.ok) {
        await response.text();
        return 1000 * Number(response.headers.get("retry-after") ?? 1);
      }
      let first = 0;
      let last = "";
      for await (const piece of response.body!.pipeThrough(new TextDecoderStream())) {
        if (first === 0 && /"content":"[^"]/.test(piece)) first = performance.now() - begin;
        last = piece;
      }
      if (!last.includes("[DONE]")) count("a stream that does not end");
      answered.push({ first: first || performance.now() - begin, whole: performance.now() - begin, ahead });
      return 0;
    } catch (error) {
      count((error as Error).message);
      return 0;
    } finally {
      pending--;
    }
  };
  const client = async (number: number): Promise<void> => {
    const random = createRandom(number, "client");
    for (let turn = 0; performance.now() < end; turn++) {
      const name = random.below(4) === 0 ? BASE : names[random.below(names.length)]!;
      const wait = await ask(name, `Define word ${number} ${turn} ${"and so on ".repeat(random.below(20))}`.slice(0, 120));
      await Bun.sleep(wait + random.uniform() * Number(values.rest));
    }
  };
  // Adapters come into memory with their first answer.
  for (const name of names) await ask(name, "Define gold.");
  // What one answer takes when nobody else asks.
  answered.length = 0;
  for (let i = 0; i < 5; i++) await ask(BASE, `Define gold ${i}.`);
  const alone = percentile(
    answered.map(({ whole }) => whole),
    0.5,
  );
  answered.length = 0;
  const memory: number[] = [];
  const sampling = setInterval(() => memory.push(treeBytes(child.pid)), 5000);
  await Promise.all(Array.from({ length: Number(values.clients) }, (_, i) => client(i)));
  clearInterval(sampling);

  // Answers end at this rate when the queue is full.
  const perSecond = answered.length / (60 * Number(values.minutes));
  const explained = ({ ahead }: Answered) => alone + (1000 * ahead) / perSecond;
  const ratios = answered.map((each) => each.first / explained(each));
  const tenth = Math.max(1, Math.floor(memory.length / 10));
  const mean = (numbers: readonly number[]) => numbers.reduce((sum, each) => sum + each, 0) / numbers.length / 2 ** 20;
  console.log(
    `${values.clients} clients, ${values.minutes} minutes, the base and ${names.length} adapters: ${answered.length} answers`,
  );
  console.log(`statuses: ${[...statuses].map(([what, times]) => `${what} x ${times}`).join(", ")}`);
  console.log(
    `memory: ${mean(memory.slice(tenth, 2 * tenth)).toFixed(0)} MiB in the second tenth, ${mean(memory.slice(-tenth)).toFixed(0)} MiB in the last`,
  );
  const firsts = answered.map(({ first }) => first);
  console.log(`first token: median ${percentile(firsts, 0.5).toFixed(0)} ms, p99 ${percentile(firsts, 0.99).toFixed(0)} ms`);
  console.log(
    `over what the queue explains: median ${percentile(ratios, 0.5).toFixed(2)}, p99 ${percentile(ratios, 0.99).toFixed(2)}`,
  );
  child.kill("SIGTERM");
  console.log(`the server ended with ${await child.exited}`);
  const isFlat = mean(memory.slice(-tenth)) <= 1.05 * mean(memory.slice(tenth, 2 * tenth));
  const isExplained = percentile(ratios, 0.99) <= 2;
  const isCalm = [...statuses.keys()].every((what) => what === "200" || what === "429");
  for (const [what, holds] of [
    ["no error but 429", isCalm],
    ["memory is flat within 5 %", isFlat],
    ["p99 is at most twice what the queue explains", isExplained],
  ] as const) {
    console.log(`${holds ? "ok  " : "MISS"} ${what}`);
    if (!holds) process.exitCode = 1;
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
