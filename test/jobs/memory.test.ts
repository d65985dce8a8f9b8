import { expect, setDefaultTimeout, test } from "bun:test";
import { join } from "node:path";
import { temporaryFolder } from "../hf/temp.ts";
import { trainBesideAnswers } from "../support/server-memory.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(600_000);

const folder = temporaryFolder();

test.if(process.platform === "linux")(
  "server and job stay within the limit while base models are loaded and an adapter answers",
  async () => {
    const size = { layers: 2, batch: 1, steps: 4, second: 0, other: 96, compares: false };
    const { limit, most } = await trainBesideAnswers(join(folder, "small"), "640MiB", size);
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(1.02 * limit);
  },
);

slowTest(
  "so do a server and two jobs for which there is not enough: the limit of the first falls and rises, and no bit changes",
  async () => {
    const size = { layers: 24, batch: 8, steps: 12, second: 3, other: 768, compares: true };
    const { limit, most, limits, hasSameBits } = await trainBesideAnswers(join(folder, "large"), "1000MiB", size);
    expect(hasSameBits).toBe(true);
    expect(most).toBeLessThanOrEqual(1.02 * limit);
    const lowest = limits.indexOf(Math.min(...limits));
    expect(limits[lowest]!).toBeLessThan(0.9 * limits[0]!);
    expect(limits.at(-1)!).toBeGreaterThan(1.1 * limits[lowest]!);
  },
);
