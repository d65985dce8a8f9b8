import { describe, expect, test } from "bun:test";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { parseFlags } from "../../src/cli/flags/flags.ts";
import { serveOptionsSchema } from "../../src/library/serve.ts";
import { parseMemory } from "../../src/train/memory/limit.ts";

const root = join(import.meta.dir, "../..");
const { engines, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8")) as {
  engines: { bun: string };
  devDependencies: Record<string, string>;
};
const read = (name: string) => readFileSync(join(root, "deploy", name), "utf8");

/** Checks a command of `serve` against its flags, and returns what they say. */
function flagsOf(command: readonly string[]): Readonly<Record<string, unknown>> {
  expect(command[0]).toBe("serve");
  const { values, words } = parseFlags(serveOptionsSchema, command.slice(1));
  expect(words).toEqual([]);
  expect(serveOptionsSchema.safeParse(values).error).toBeUndefined();
  expect(values["home"]).toBeString();
  if (values["memory"] !== undefined) expect(parseMemory(String(values["memory"]))).toBeGreaterThan(2 ** 30);
  return values;
}

describe("deploy", () => {
  test("the unit of systemd starts a command that there is, with the limits that belong to it", () => {
    const lines = read("remat.service").split("\n");
    const sections = new Map<string, Map<string, string>>();
    let section = new Map<string, string>();
    for (const line of lines) {
      if (line === "" || line.startsWith("#")) continue;
      const name = /^\[(\w+)\]$/.exec(line)?.[1];
      if (name !== undefined) sections.set(name, (section = new Map()));
      else {
        const [, key, value] = /^(\w+)=(.+)$/.exec(line) ?? [];
        expect([line, key]).not.toEqual([line, undefined]);
        section.set(key!, value!);
      }
    }
    expect([...sections.keys()]).toEqual(["Unit", "Service", "Install"]);
    const service = sections.get("Service")!;
    const [program, ...command] = service.get("ExecStart")!.split(" ");
    expect(program).toBe("/usr/local/bin/remat");
    const flags = flagsOf(command);
    expect(String(flags["home"]).startsWith(`${service.get("ReadWritePaths")}/`)).toBe(true);
    const most = /^(\d+)M$/.exec(service.get("MemoryMax")!)!;
    expect(Number(most[1]) * 2 ** 20).toBeGreaterThan(parseMemory(String(flags["memory"])));
    // A mistake that has to be mended ends with 2.
    expect(service.get("RestartPreventExitStatus")).toBe("2");
    expect(service.get("KillMode")).toBe("mixed");
  });

  test("the image is of the Bun that the package asks for, copies what there is, and starts a command that there is", () => {
    const text = read("Dockerfile");
    const instructions = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    const images = instructions
      .filter((line) => line.startsWith("FROM "))
      .map((line) => /^FROM oven\/bun:([\d.]+)/.exec(line)?.[1]);
    const bun = devDependencies["bun-types"]!;
    expect(images).toEqual([bun, bun]);
    expect(engines.bun).toBe(`>=${bun}`);
    for (const [, from] of text.matchAll(/^COPY --from=build \/build\/(\S+) \/app\/\S+$/gm))
      expect([from, existsSync(join(root, from!))]).toEqual([from, true]);
    const command = JSON.parse(/^CMD (\[.+\])$/m.exec(text.split("ENTRYPOINT")[1]!)![1]!) as string[];
    const entry = JSON.parse(/^ENTRYPOINT (\[.+\])$/m.exec(text)![1]!) as string[];
    expect(existsSync(join(root, entry.at(-1)!.replace("/app/", "")))).toBe(true);
    expect(flagsOf(command)).toMatchObject({ host: "0.0.0.0", port: 8000 });
    expect(text).toMatch(/^USER bun$/m);
  });

  test("the composition asks for a key, and gives the container the memory that the server may take", () => {
    const { services } = parse(read("compose.yaml")) as {
      services: {
        remat: { command: string[]; mem_limit: string; environment: Record<string, string>; build: { dockerfile: string } };
      };
    };
    const { command, mem_limit, environment, build } = services.remat;
    const flags = flagsOf(command);
    expect(Number.parseInt(mem_limit, 10) * 2 ** 20).toBeGreaterThan(parseMemory(String(flags["memory"])));
    expect(environment["REMAT_API_KEY"]).toContain(":?");
    expect(existsSync(join(root, build.dockerfile))).toBe(true);
  });
});
