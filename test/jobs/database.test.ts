import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { copyFileSync, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { commitLazily, openDatabase } from "../../src/jobs/home/database.ts";
import { openHome } from "../../src/jobs/home/home.ts";
import { createFileStore } from "../../src/jobs/home/files.ts";
import { createKeyStore } from "../../src/jobs/home/keys.ts";
import { temporaryFolder } from "../hf/temp.ts";

const folder = temporaryFolder();
const messageOf = (action: () => unknown): string => {
  try {
    action();
  } catch (error) {
    expect((error as Error).name).toBe("UserError");
    return (error as Error).message;
  }
  throw new Error("nothing was refused");
};

describe("the database of a home", () => {
  test("is upgraded row by row, and never opened by an older version", () => {
    const path = join(folder, "upgraded.sqlite");
    const rows = ["CREATE TABLE a (x INTEGER) STRICT", "ALTER TABLE a ADD COLUMN y TEXT"];
    const first = openDatabase(path, rows.slice(0, 1));
    first.run("INSERT INTO a VALUES (3)");
    first.close();
    const second = openDatabase(path, rows);
    expect(second.query("SELECT * FROM a").all()).toEqual([{ x: 3, y: null }]);
    second.close();
    expect(messageOf(() => openDatabase(path, rows.slice(0, 1)))).toContain(
      "was written by a newer version of Remat (schema 2, this one knows 1)",
    );
    openDatabase(path, rows).close();
  });

  test("an upgrade that fails leaves what was there", () => {
    const path = join(folder, "half.sqlite");
    openDatabase(path, ["CREATE TABLE a (x INTEGER) STRICT"]).close();
    expect(() =>
      openDatabase(path, ["CREATE TABLE a (x INTEGER) STRICT", "CREATE TABLE b (x INTEGER); CREATE TABLE a (y)"]),
    ).toThrow();
    const database = openDatabase(path, ["CREATE TABLE a (x INTEGER) STRICT"]);
    expect(database.query("SELECT name FROM sqlite_schema").values()).toEqual([["a"]]);
    database.close();
  });

  test("another program's database is left alone", () => {
    const path = join(folder, "other.sqlite");
    const other = new Database(path);
    other.run("CREATE TABLE theirs (x)");
    other.close();
    const before = readFileSync(path);
    expect(messageOf(() => openDatabase(path))).toContain("a database of another program");
    expect(readFileSync(path).equals(before)).toBe(true);
  });

  test("what is committed is synced in a write-ahead log", () => {
    const database = openDatabase(join(folder, "log.sqlite"));
    expect(database.query("PRAGMA journal_mode").get()).toEqual({ journal_mode: "wal" });
    expect(database.query("PRAGMA synchronous").get()).toEqual({ synchronous: 2 });
    database.run("CREATE TABLE a (x INTEGER)");
    commitLazily(database, () => {
      expect(database.query("PRAGMA synchronous").get()).toEqual({ synchronous: 1 });
      database.run("INSERT INTO a VALUES (1)");
    });
    expect(() => commitLazily(database, () => database.run("INSERT INTO b VALUES (1)"))).toThrow("no such table");
    expect(database.query("PRAGMA synchronous").get()).toEqual({ synchronous: 2 });
    expect(database.query("SELECT * FROM a").all()).toEqual([{ x: 1 }]);
    database.close();
  });

  test("a damaged one is a clear error, and the way that the error names leads back", () => {
    const path = join(folder, "damaged");
    const home = openHome(path);
    const file = createFileStore(home).begin();
    file.write(new TextEncoder().encode("hello"));
    const { id } = file.finish({ filename: "a.jsonl", purpose: "fine-tune", lifetime: null });
    home.close();
    // The copy is made at the next start, which finds the database whole.
    openHome(path).close();
    const database = join(path, "remat.sqlite");
    const bytes = readFileSync(database);
    const damages: [string, () => void][] = [
      [
        "no database at all",
        () => writeFileSync(database, "not a database, but a text that is longer than a header".repeat(100)),
      ],
      [
        "a page of zeros",
        () => writeFileSync(database, Buffer.concat([bytes.subarray(0, 4096), Buffer.alloc(bytes.length - 4096)])),
      ],
      ["cut short", () => writeFileSync(database, bytes.subarray(0, bytes.length - 5000))],
    ];
    for (const [, damage] of damages) {
      damage();
      const message = messageOf(() => openHome(path));
      expect(message).toContain("remat.sqlite cannot be read as a database");
      expect(message).toContain("cp ");
      const [, from, to] = /cp (\S+) (\S+?),/.exec(message)!;
      copyFileSync(from!, to!);
      for (const end of ["-wal", "-shm"]) rmSync(to! + end, { force: true });
      const again = openHome(path);
      expect(createFileStore(again).get(id)!.filename).toBe("a.jsonl");
      again.close();
    }
  });
});

describe("a home", () => {
  test("belongs to one server", () => {
    const path = join(folder, "one");
    const home = openHome(path);
    expect(messageOf(() => openHome(path))).toBe(
      `--home ${path}: another server (process ${process.pid}) works in this folder; end it, or choose another one`,
    );
    home.close();
    openHome(path).close();
  });

  test("has the same bytes once, until the last file of them goes", () => {
    const home = openHome(join(folder, "files"));
    const files = createFileStore(home);
    const add = (text: string, filename: string, lifetime: number | null = null) => {
      const upload = files.begin();
      upload.write(new TextEncoder().encode(text));
      return upload.finish({ filename, purpose: "fine-tune", lifetime });
    };
    const [a, b, c] = [add("one", "a.jsonl"), add("one", "b.jsonl"), add("one", "../../etc/c.csv")];
    expect(files.pathOf(a)).toBe(files.pathOf(b));
    expect(files.pathOf(c)).toStartWith(home.files);
    expect(readFileSync(files.pathOf(b), "utf8")).toBe("one");
    files.delete(a);
    expect(existsSync(files.pathOf(b))).toBe(true);
    files.delete(b);
    expect(existsSync(files.pathOf(b))).toBe(false);
    expect(existsSync(files.pathOf(c))).toBe(true);
    const old = add("two", "old.jsonl", -1);
    files.expire((id) => id === old.id);
    expect(files.get(old.id)).not.toBeNull();
    files.expire(() => false);
    expect(files.get(old.id)).toBeNull();
    home.close();
  });

  test("keeps of a key its hash alone", () => {
    const home = openHome(join(folder, "keys"));
    const keys = createKeyStore(home);
    const { key, secret } = keys.create("phone", ["infer"]);
    expect(keys.find(secret)).toEqual(key);
    expect(keys.find(`${secret}x`)).toBeNull();
    expect(keys.list()).toEqual([key]);
    home.close();
    for (const file of ["remat.sqlite", "remat.backup.sqlite"])
      expect(readFileSync(join(folder, "keys", file)).includes(secret)).toBe(false);
  });
});
