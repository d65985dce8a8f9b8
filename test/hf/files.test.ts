import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { copyAtomic, writeTextAtomic } from "../../src/base/files/files.ts";
import { copyCompanions, writeWeights } from "../../src/hf/weights/model-folder.ts";
import { openSafetensors } from "../../src/hf/weights/safetensors.ts";
import { prepareRunFolder } from "../../src/train/run/folder.ts";
import { filesIn, fullDisk, temporaryFolder, userError } from "./temp.ts";

setDefaultTimeout(120_000);

const folder = temporaryFolder();
const path = (name: string) => join(folder, name);

describe("a link in an output folder does not lead writes out of it", () => {
  test("files that are written or copied take the link's place", () => {
    mkdirSync(path("out"));
    writeFileSync(path("outside.json"), "mine");
    for (const name of ["config.json", "written.json"]) symlinkSync(path("outside.json"), path(`out/${name}`));
    mkdirSync(path("model"));
    writeFileSync(path("model/config.json"), "{}");
    copyCompanions(path("model"), path("out"));
    writeTextAtomic(path("out/written.json"), "new");
    expect(readFileSync(path("outside.json"), "utf8")).toBe("mine");
    expect([readFileSync(path("out/config.json"), "utf8"), readFileSync(path("out/written.json"), "utf8")]).toEqual([
      "{}",
      "new",
    ]);
  });

  test("a run that is replaced loses its links, not what they point to", () => {
    mkdirSync(path("elsewhere"));
    writeFileSync(path("elsewhere/file"), "mine");
    mkdirSync(path("run"));
    symlinkSync(path("elsewhere"), path("run/checkpoints"));
    prepareRunFolder(path("run"), false).lock.release();
    expect(filesIn(path("run"))).toEqual([]);
    expect(filesIn(path("elsewhere"))).toEqual(["file"]);
  });
});

test("names of tensors are not names of files: whatever they are, shards and their index stay in the folder", () => {
  mkdirSync(path("shards/model"), { recursive: true });
  const names = ["../../evil", "/etc/evil", "..", "a/b", "C:\\evil", "__proto__", "x\0y", ""];
  const tensors = names.map((name) => ({ name, dtype: "f32" as const, shape: [4], data: new Float32Array(4) }));
  writeWeights(path("shards/model"), tensors, 20);
  expect(filesIn(path("shards"))).toEqual(["model"]);
  const files = filesIn(path("shards/model"));
  expect(files).toHaveLength(names.length + 1);
  for (const file of files) expect(file).toMatch(/^model(-\d{5}-of-\d{5})?\.safetensors(\.index\.json)?$/);
  const source = openSafetensors(path("shards/model"));
  expect([...source.tensors.keys()].sort()).toEqual(names.toSorted());
  source.close();
});

describe("copies", () => {
  test("a disk that fills up leaves the old file and nothing else", () => {
    writeFileSync(path("from"), Buffer.alloc(3_000_000, 7));
    mkdirSync(path("copies"));
    writeFileSync(path("copies/to"), "old");
    for (const room of [0, 1, 2_000_000, 2_999_999])
      expect(userError(() => copyAtomic(path("from"), path("copies/to"), fullDisk(room)))).toContain("disk is full");
    expect(readFileSync(path("copies/to"), "utf8")).toBe("old");
    expect(filesIn(path("copies"))).toEqual(["to"]);
    copyAtomic(path("from"), path("copies/to"), fullDisk(3_000_000));
    expect(readFileSync(path("copies/to"))).toEqual(readFileSync(path("from")));
    expect(userError(() => copyAtomic(path("none"), path("copies/to")))).toContain("no such file");
  });
});
