import { afterEach, describe, expect, test } from "bun:test";
import { createRandom } from "../../src/base/random.ts";
import { createLedger, type Ledger, type LedgerOptions } from "../../src/jobs/ledger.ts";
import { levelled } from "../../src/jobs/levelled.ts";
import { createMemoryControl } from "../../src/train/run/memory-control.ts";

test("shares are levelled: within their bounds, none larger than another one that could be, and together what there is; 2000 random ones", () => {
  const random = createRandom(5, "shares");
  for (let trial = 0; trial < 2000; trial++) {
    const bounds = Array.from({ length: random.below(5) }, () => {
      const least = random.below(500);
      return { least, most: least + random.below(1000) };
    });
    const there = random.below(4000);
    const shares = levelled(there, bounds);
    const sum = (values: readonly number[]) => values.reduce((all, value) => all + value, 0);
    const all = sum(shares);
    expect(all).toBeLessThanOrEqual(Math.max(there, sum(bounds.map(({ least }) => least))));
    expect(all).toBeGreaterThan(Math.min(there, sum(bounds.map(({ most }) => most))) - bounds.length - 1);
    shares.forEach((share, i) => {
      const { least, most } = bounds[i]!;
      expect(share).toBeGreaterThanOrEqual(least);
      expect(share).toBeLessThanOrEqual(most);
      for (const [j, other] of shares.entries()) {
        if (other > share + 1 && share < most) expect(other).toBe(bounds[j]!.least);
      }
    });
  }
});

/** A job whose process says when it has changed its limit. */
interface FakeJob {
  readonly asked: number[];
  readonly started: Promise<number> | null;
  /** Confirms the newest limit, or another one that it keeps instead. */
  confirm(kept?: number): Promise<void>;
  /** Confirms the oldest limit that is not confirmed. */
  confirmFirst(kept: number): Promise<void>;
}

const ledgers: Ledger[] = [];
afterEach(() => {
  for (const ledger of ledgers.splice(0)) for (const job of ledger.jobs.keys()) ledger.release(job);
});

function make(options: Partial<LedgerOptions> & { held?: () => number; promised?: () => number } = {}) {
  const { held = () => 0, promised = () => 0, ...more } = options;
  let look = () => {};
  const watch: LedgerOptions["watch"] = (given) => {
    look = given;
    return () => (look = () => {});
  };
  const ledger = createLedger({ limit: 6400, serving: { held, promised }, watch, ...more });
  ledgers.push(ledger);
  const add = (name: string, least: number, most: number): FakeJob => {
    const control = createMemoryControl();
    const asked: number[] = [];
    let answer: ((kept: number) => void)[] = [];
    control.attach((bytes) => {
      asked.push(bytes);
      return new Promise((resolve) => answer.push(resolve));
    });
    return {
      asked,
      started: ledger.admit(name, { least, most }, control),
      async confirm(kept = asked.at(-1)!) {
        const waiting = answer;
        answer = [];
        for (const resolve of waiting) resolve(kept);
        await Bun.sleep(0);
      },
      async confirmFirst(kept) {
        answer.shift()!(kept);
        await Bun.sleep(0);
      },
    };
  };
  const sum = () => [...ledger.jobs.values()].reduce((bytes, held) => bytes + held, 0);
  return { ledger, add, sum, look: () => look() };
}

describe("the ledger", () => {
  test("of several limits that a job is asked for meanwhile the newest counts: that it keeps more than an older one pins it to nothing", async () => {
    let held = 0;
    const { ledger, add, look } = make({ held: () => held });
    const job = add("job", 1000, 9000);
    expect(await job.started).toBe(6300);
    // What answering holds goes up and down, each time a little.
    for (held of [200, 300, 250]) look();
    expect(job.asked).toEqual([6100, 6000, 6050]);
    await job.confirm();
    expect(ledger.jobs.get("job")).toBe(6050);
    held = 3000;
    const room = ledger.makeRoom(0);
    expect(job.asked.at(-1)).toBe(3300);
    await job.confirm();
    expect(await room).not.toBeNull();
  });

  test("a limit that is confirmed when another one has been asked for already: what it gave is free at once, what the job may grow into is not", async () => {
    let held = 0;
    const { ledger, add, look } = make({ held: () => held });
    const job = add("job", 1000, 9000);
    await job.started;
    for (held of [1000, 1200]) look();
    expect(job.asked).toEqual([5300, 5100]);
    // The process had heard of the first one alone.
    await job.confirmFirst(5300);
    expect([ledger.jobs.get("job"), ledger.free]).toEqual([5300, 0]);
    await job.confirm();
    expect([ledger.jobs.get("job"), ledger.free]).toEqual([5100, 100]);
    held = 2000;
    look();
    expect(job.asked.at(-1)).toBe(4300);
    held = 0;
    for (let i = 0; i < 3; i++) look();
    expect(job.asked.at(-1)).toBe(6300);
    await job.confirmFirst(4300);
    expect(ledger.jobs.get("job")).toBe(6300);
  });

  test("gives a job what is free, takes it back for another one when that is confirmed, and gives it back behind that one's end", async () => {
    const { ledger, add, sum } = make();
    const first = add("first", 1000, 9000);
    expect(await first.started).toBe(6300);
    expect(ledger.isShort).toBe(true);
    const second = add("second", 500, 9000);
    expect(first.asked).toEqual([3150]);
    let budget = 0;
    void second.started!.then((bytes) => (budget = bytes));
    await Bun.sleep(20);
    // Not before the process has let go.
    expect([budget, sum()]).toEqual([0, 6300]);
    await first.confirm();
    expect([budget, sum()]).toEqual([3150, 6300]);
    ledger.release("second");
    expect(first.asked).toEqual([3150, 6300]);
    await first.confirm();
    expect(ledger.jobs.get("first")).toBe(6300);
    ledger.release("first");
    await add("small", 10, 20).started;
    expect(ledger.isShort).toBe(false);
  });

  test("sets aside the least of each job, and what models may come to hold: a job without that waits", async () => {
    let held = 400;
    const { ledger, add } = make({ held: () => held, promised: () => 3400 });
    expect(ledger.mostForJobs).toBe(3000);
    const first = add("first", 1000, 9000);
    expect(await first.started).toBe(5900);
    expect(ledger.unpromised).toBe(2000);
    expect(add("large", 2001, 3000).started).toBeNull();
    // A base model is asked for: it has to be loaded whatever jobs do.
    held = 3400;
    let has = false;
    const room = ledger.makeRoom(0).then((take) => (has = take !== null));
    expect(first.asked).toEqual([2900]);
    await Bun.sleep(20);
    expect(has).toBe(false);
    await first.confirm();
    await room;
    expect(has).toBe(true);
    expect(ledger.free).toBe(100);
  });

  test("makes room for adapters as far as jobs can give way, within a bounded time", async () => {
    const { ledger, add } = make({ patienceMs: 50 });
    const job = add("job", 6000, 9000);
    await job.started;
    const take = (await ledger.makeRoom(50))!;
    expect(job.asked).toEqual([]);
    take();
    expect(ledger.free).toBe(100);
    const more = ledger.makeRoom(250);
    expect(job.asked).toEqual([6050]);
    await job.confirm();
    expect(ledger.free).toBe(100);
    (await more)!();
    expect(ledger.free).toBe(350);
    // Less than its least it never gets, and one that does not answer is not waited for.
    expect(await ledger.makeRoom(1000)).toBeNull();
    const begin = performance.now();
    const silent = await ledger.makeRoom(400);
    expect(silent).toBeNull();
    expect(performance.now() - begin).toBeGreaterThan(45);
  });

  test("believes a process that keeps more than it was asked for", async () => {
    const { ledger, add } = make();
    const first = add("first", 1000, 9000);
    await first.started;
    const second = add("second", 5000, 9000);
    expect(first.asked).toEqual([1300]);
    await first.confirm(1400);
    expect(await second.started).toBe(5000);
    expect(ledger.unpromised).toBe(0);
    expect(add("third", 1, 10).started).toBeNull();
  });

  test("follows what answering takes by itself, at once down, up only when it has been calm; small changes are none", async () => {
    let held = 0;
    const { ledger, add, look } = make({ held: () => held });
    const job = add("job", 1000, 9000);
    await job.started;
    held = 90;
    look();
    expect(job.asked).toEqual([]);
    held = 500;
    look();
    expect(job.asked).toEqual([5800]);
    await job.confirm();
    held = 350;
    for (let i = 0; i < 9; i++) look();
    expect(job.asked).toEqual([5800]);
    held = 0;
    for (let i = 0; i < 2; i++) look();
    expect(job.asked).toEqual([5800]);
    // Not in a row.
    held = 500;
    look();
    held = 0;
    for (let i = 0; i < 2; i++) look();
    expect(job.asked).toEqual([5800]);
    look();
    expect(job.asked).toEqual([5800, 6300]);
    await job.confirm();
    expect(ledger.jobs.get("job")).toBe(6300);
  });

  test("200 random histories: what processes have been allowed never exceeds the limit, every job that is taken in begins", async () => {
    const random = createRandom(9, "histories");
    for (let history = 0; history < 200; history++) {
      let held = 500;
      const { ledger, add, sum } = make({ held: () => held, promised: () => 2000 });
      const jobs = new Map<string, FakeJob>();
      const begun = new Set<string>();
      for (let at = 0; at < 30; at++) {
        const names = [...jobs.keys()];
        const some = names[random.below(Math.max(1, names.length))];
        switch (random.below(4)) {
          case 0: {
            const least = 100 + random.below(3000);
            const name = `job ${at}`;
            const job = add(name, least, least + random.below(6000));
            if (job.started === null) break;
            jobs.set(name, job);
            void job.started.then(() => begun.add(name));
            break;
          }
          case 1:
            if (some) await jobs.get(some)!.confirm();
            break;
          case 2:
            if (some && jobs.delete(some)) ledger.release(some);
            break;
          case 3: {
            const wanted = 500 + random.below(1500);
            if (wanted < held) held = wanted;
            else {
              const more = wanted - held;
              const room = ledger.makeRoom(more).then((take) => take && (take(), (held += more)));
              for (const job of jobs.values()) await job.confirm();
              await room;
            }
          }
        }
        expect(sum() + held).toBeLessThanOrEqual(6400);
      }
      for (let round = 0; round < 3; round++) for (const job of jobs.values()) await job.confirm();
      expect([...jobs.keys()].filter((name) => !begun.has(name))).toEqual([]);
      for (const name of jobs.keys()) ledger.release(name);
    }
  });
});
