import { expect, setDefaultTimeout } from "bun:test";
import { join } from "node:path";
import { mkdirSync } from "node:fs";
import { temporaryFolder } from "../hf/temp.ts";
import { killServers, VICTIMS } from "../support/server-kills.ts";
import { slowTest } from "../support/slow.ts";

setDefaultTimeout(600_000);

const folder = temporaryFolder();
const fresh = (name: string): string => {
  mkdirSync(join(folder, name));
  return join(folder, name);
};

slowTest(
  "a kill of the server and the process that trains, in the middle, loses and doubles nothing, and changes no bit",
  async () => {
    const { problems, kills } = await killServers(fresh("one"), ["both"], 1, 12);
    expect(problems).toEqual([]);
    expect(kills.both).toBe(1);
  },
);

// bench/server-kills.ts has hundreds.
slowTest("so do six kills of the one, the other or both at random instants", async () => {
  const victims = Array.from({ length: 6 }, (_, i) => VICTIMS[i % VICTIMS.length]!);
  const { problems, kills } = await killServers(fresh("six"), victims, 2);
  expect(problems).toEqual([]);
  expect(kills.server + kills.both).toBe(4);
});
