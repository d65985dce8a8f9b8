import { expect, setDefaultTimeout } from "bun:test";
import { temporaryFolder } from "../hf/temp.ts";
import { trainBesideAnswers } from "../support/server-memory.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(300_000);

const folder = temporaryFolder();

slowTest(
  "server and jobs stay within the limit while a second job comes and ends, base models are loaded and adapters answer: a job's limit falls and rises, and no bit changes",
  async () => {
    const { limit, most, limits, problems } = await trainBesideAnswers(folder, "1000MiB");
    expect(problems).toEqual([]);
    expect(most).toBeLessThanOrEqual(1.02 * limit);
    const lowest = limits.indexOf(Math.min(...limits));
    expect(limits[lowest]!).toBeLessThan(0.9 * limits[0]!);
    expect(limits.at(-1)!).toBeGreaterThan(1.1 * limits[lowest]!);
  },
);
