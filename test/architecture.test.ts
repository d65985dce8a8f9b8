import { expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";

const SOURCE = join(import.meta.dir, "../src");

/**
 * The rooms of the house, the lowest first: a file imports from its own room and from those below. A file belongs to the row with the
 * longest name that is in front of its path. A new folder in `src/` needs a row.
 */
const ROOMS: readonly string[] = [
  "base",
  "graph",
  "ops",
  "autodiff",
  "onnx/gen",
  "onnx",
  "schedule",
  "schedule/planner",
  "models",
  "hf/config",
  "gguf/blocks",
  "hf/weights",
  "gguf/names.ts",
  "gguf/read",
  "hf/peft",
  "hf/hub",
  "runtime",
  "ort",
  "wasm",
  "store",
  "device.ts",
  "doctor",
  "optimizers",
  "data/examples",
  "data/tokens",
  "data/chat",
  "data/samples",
  "gguf/folder",
  "objectives",
  "load",
  "generate",
  "gguf",
  "portable",
  "train",
  "train/memory",
  "train/step",
  "train/teacher",
  "train/nodes",
  "train/run",
  "train/apart",
  "jobs",
  "page",
  "serve",
  "fleet",
  "library",
  "index.ts",
  "cli/flags",
  "cli/terminal",
  "cli/verbs",
  "cli",
];

/** Files of a folder, at most; in `ops` each operator has its own, and `onnx/gen` is generated. */
const MOST_FILES = 14;
const LARGE_FOLDERS: ReadonlySet<string> = new Set(["ops", "onnx/gen"]);

/** By file, the files of `src/` that it imports, types and imports at run time included. */
const imports: ReadonlyMap<string, ReadonlySet<string>> = readImports();

function readImports(): Map<string, Set<string>> {
  const files = (readdirSync(SOURCE, { recursive: true }) as string[]).filter((name) => name.endsWith(".ts")).sort();
  const known = new Set(files);
  return new Map(
    files.map((file) => {
      const text = readFileSync(join(SOURCE, file), "utf8");
      const specifiers = text.matchAll(
        /^(?:import|export)\b[^;"']*?from "(\.[^"]+)"|^import "(\.[^"]+)"|\bimport\("(\.[^"]+)"\)/gm,
      );
      const targets = [...specifiers].map(([, named, plain, late]) =>
        relative(SOURCE, join(SOURCE, dirname(file), (named ?? plain ?? late)!)),
      );
      return [file, new Set(targets.filter((target) => known.has(target)))];
    }),
  );
}

/** The row of a file, or -1. */
function roomOf(file: string): number {
  const rows = ROOMS.map((room, row) => ({ room, row })).filter(({ room }) => file === room || file.startsWith(`${room}/`));
  return rows.reduce((best, { room, row }) => (best < 0 || room.length > ROOMS[best]!.length ? row : best), -1);
}

/** All imports between files. */
const arrows: readonly (readonly [from: string, to: string])[] = [...imports].flatMap(([from, targets]) =>
  [...targets].map((to) => [from, to] as const),
);

test("imports are found: of types, of several lines, at run time", () => {
  expect(imports.get("device.ts")).toContain("runtime/executor.ts");
  expect(imports.get("device.ts")).toContain("ort/executor.ts");
  expect(imports.get("train/run/run.ts")).toContain("train/run/folder.ts");
  expect(arrows.length).toBeGreaterThan(800);
});

test("every file is in a room", () => {
  expect([...imports.keys()].filter((file) => roomOf(file) < 0)).toEqual([]);
});

test("arrows point down: no file imports from a room above its own", () => {
  expect(arrows.filter(([from, to]) => roomOf(to) > roomOf(from)).map(([from, to]) => `${from} -> ${to}`)).toEqual([]);
});

test("no two folders import each other, unless one is in the other", () => {
  const between = new Map<string, string>();
  for (const [from, to] of arrows) between.set(`${dirname(from)} ${dirname(to)}`, `${from} -> ${to}`);
  // `src/` itself has a file at the bottom of the house and one at its top.
  const isApart = (a: string, b: string) => a !== b && a !== "." && b !== "." && !a.startsWith(`${b}/`) && !b.startsWith(`${a}/`);
  const found = [...between].flatMap(([pair, arrow]) => {
    const [a, b] = pair.split(" ") as [string, string];
    const back = between.get(`${b} ${a}`);
    return a < b && back !== undefined && isApart(a, b) ? [`${arrow}, ${back}`] : [];
  });
  expect(found).toEqual([]);
});

test("no file is in a circle of imports", () => {
  const done = new Set<string>();
  const circles: string[] = [];
  const visit = (file: string, path: readonly string[]): void => {
    const at = path.indexOf(file);
    if (at >= 0) circles.push([...path.slice(at), file].join(" -> "));
    if (at >= 0 || done.has(file)) return;
    for (const target of imports.get(file)!) visit(target, [...path, file]);
    done.add(file);
  };
  for (const file of imports.keys()) visit(file, []);
  expect(circles).toEqual([]);
});

test(`no folder has more than ${MOST_FILES} files`, () => {
  const counts = new Map<string, number>();
  for (const file of imports.keys()) counts.set(dirname(file), (counts.get(dirname(file)) ?? 0) + 1);
  const large = [...counts].filter(([folder, count]) => count > MOST_FILES && !LARGE_FOLDERS.has(folder));
  expect(large.map(([folder, count]) => `${folder}: ${count}`)).toEqual([]);
});

test("docs/architecture.md lists the folders in this order, and no other", () => {
  const page = readFileSync(join(SOURCE, "../docs/architecture.md"), "utf8");
  const listed = [...page.matchAll(/^- \*\*`src\/([\w.-]+)\/?`\*\*/gm)].map(([, name]) => name!);
  const there = new Set([...imports.keys()].map((file) => file.split("/")[0]!));
  const rooms = [...new Set(ROOMS.map((room) => room.split("/")[0]!))].filter((room) => there.has(room) && room !== "index.ts");
  expect(listed).toEqual(rooms);
});

test("no function is longer than 120 lines, unless its docstring says why it is in one piece", () => {
  const found: string[] = [];
  for (const file of imports.keys()) {
    if (file.startsWith("onnx/gen/")) continue;
    const lines = readFileSync(join(SOURCE, file), "utf8").split("\n");
    lines.forEach((line, i) => {
      const name = /^(?:export )?(?:async )?function\*? (\w+)/.exec(line)?.[1];
      if (name === undefined) return;
      const length = lines.indexOf("}", i) - i;
      const docstring = lines
        .slice(lines.lastIndexOf("/**", i), i)
        .join(" ")
        .replaceAll(/\s*\*\s*/g, " ");
      if (length > 120 && !docstring.includes("In one piece:")) found.push(`${file}: ${name}, ${length} lines`);
    });
  }
  expect(found).toEqual([]);
});

test("no docstring begins with a fragment: a field is a noun phrase, a function a sentence with a verb", () => {
  const fragments = [...imports.keys()].flatMap((file) =>
    [
      ...readFileSync(join(SOURCE, file), "utf8").matchAll(/^\s*\/\*\*(?:\n \*)? (?:Of|Those|Who|Whoever|Whether|What)\b.*$/gm),
    ].map(([line]) => `${file}: ${line.trim()}`),
  );
  // One that is a whole sentence.
  expect(fragments.filter((line) => !/ (?:is|are|has|have|differs) /.test(line))).toEqual([]);
});
