import { describe, expect, test } from "bun:test";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { readCsv } from "../../src/data/examples/csv.ts";
import { readEntries, readExamples } from "../../src/data/examples/dataset.ts";
import { readItems } from "../../src/data/examples/json-array.ts";
import { readParquet } from "../../src/data/examples/parquet.ts";
import type { RawRecord } from "../../src/data/examples/record.ts";
import { rejection, temporaryFolder, userError } from "../hf/temp.ts";

const golden = join(import.meta.dir, "../golden/tables");
const folder = temporaryFolder();

function file(name: string, content: string | Uint8Array): string {
  const path = join(folder, name);
  writeFileSync(path, content);
  return path;
}

const all = (columns: (column: string) => boolean = () => false) => ({ isUnused: columns, onUnused: () => {} });

const texts = async (records: AsyncIterable<RawRecord>) => (await Array.fromAsync(records)).map(({ json }) => json());

describe("Parquet", () => {
  const rows = readFileSync(join(golden, "rows.jsonl"), "utf8").trim().split("\n");

  test.each(["none", "snappy", "gzip", "brotli", "zstd", "lz4", "pages-v2", "plain"])(
    "%s: every row is the line of JSON that pyarrow and Python write, numbers included",
    async (name) => {
      expect(await texts(readParquet(join(golden, `${name}.parquet`), all()))).toEqual(rows);
    },
  );

  test("headers of pages with long statistics", async () => {
    expect(await texts(readParquet(join(golden, "long-values.parquet"), all()))).toEqual(
      [..."abc"].map((letter) => `{"text":"${letter.repeat(2000)}"}`),
    );
  });

  test("rows are counted over groups, and their ends come to the file's", async () => {
    const path = join(golden, "zstd.parquet");
    const records = await Array.fromAsync(readParquet(path, all()));
    expect(records.map(({ number }) => number)).toEqual(rows.map((_, i) => i + 1));
    expect(records[12]!.where).toBe(`${path}, row 13`);
    const ends = records.map(({ end }) => end);
    expect(ends).toEqual(ends.toSorted((a, b) => a - b));
    expect(ends.at(-1)).toBeLessThan(readFileSync(path).length);
  });

  test("columns that are left out are told and not decoded, such as those of bytes", async () => {
    const path = join(golden, "bytes.parquet");
    const told: (readonly string[])[] = [];
    const options = {
      isUnused: (column: string) => column === "picture",
      onUnused: (columns: readonly string[]) => told.push(columns),
    };
    expect(await texts(readParquet(path, options))).toEqual(['{"prompt":"a"}', '{"prompt":"b"}']);
    expect(told).toEqual([["picture"]]);
    expect(await rejection(texts(readParquet(path, all())))).toBe(
      `${path}, rows 1 to 2: a value is not UTF-8 text; columns of bytes can be left out with --columns ignore=NAME`,
    );
  });

  test("no rows; a codec that is not read; a file cut short", async () => {
    expect(await texts(readParquet(join(golden, "empty.parquet"), all()))).toEqual([]);
    // The codec is a number of Thrift's compact protocol: field 4 of the column's metadata, an i32 (0x15); 4 (zigzag 2) is SNAPPY, 6 LZO.
    const bytes = readFileSync(join(golden, "snappy.parquet"));
    const path = file("lzo.parquet", bytes);
    const metadata = bytes.length - 8 - bytes.readUInt32LE(bytes.length - 8);
    let count = 0;
    for (let at = metadata; at < bytes.length - 8; at++) {
      // The path in the schema ends, then comes the codec.
      if (bytes[at] !== 0x15 || bytes[at + 1] !== 0x02 || bytes[at + 2] !== 0x16) continue;
      bytes[at + 1] = 0x06;
      count++;
    }
    expect(count).toBeGreaterThan(4);
    writeFileSync(path, bytes);
    expect(await rejection(texts(readParquet(path, all())))).toBe(
      `${path}, rows 1 to 10: the column "id" is compressed with LZO, which is not read here; write the file with one of UNCOMPRESSED, SNAPPY, GZIP, BROTLI, ZSTD, LZ4, LZ4_RAW`,
    );
    const cut = file("cut.parquet", readFileSync(join(golden, "zstd.parquet")).subarray(0, -100));
    expect(await rejection(texts(readParquet(cut, all())))).toStartWith(`${cut}: the Parquet file cannot be read: `);
  });

  test("an example of a row, and its place in an error", async () => {
    const path = join(golden, "zstd.parquet");
    const entries = await Array.fromAsync(readEntries(path));
    const unused: string[] = [];
    const [first] = await Array.fromAsync(
      readEntries(path, {
        mapping: { columns: new Map(), ignored: new Set(["created"]), roles: new Map(), key: "x" },
        unused: (name) => unused.push(name),
      }),
    );
    const example = first!.parse();
    expect(example.kind === "chat" && example.messages.map(({ role, weight }) => [role, weight])).toEqual([
      ["user", 0],
      ["assistant", 1],
      ["assistant", 1],
    ]);
    expect(unused.sort()).toEqual(["created", "id", "score"]);
    expect(userError(() => entries[2]!.parse())).toBe(`${path}, row 3: "messages" is empty; an example needs at least one entry`);
  });
});

describe("CSV", () => {
  const expected = JSON.parse(readFileSync(join(golden, "csv.json"), "utf8")) as Record<string, string[][]>;

  test.each(Object.keys(expected))("%s: the cells that Python's csv reads, whatever the size of the pieces", async (name) => {
    const [header, ...rows] = expected[name]!;
    // Its rows of blank lines are none here, and an empty cell is null.
    const records = rows.map((row) => Object.fromEntries(header!.map((column, i) => [column, row[i] === "" ? null : row[i]])));
    for (const piece of [1, 2, 3, 7, 64, 1 << 20])
      expect((await texts(readCsv(join(golden, name), piece))).map((text) => JSON.parse(text) as unknown)).toEqual(records);
  });

  test("a row's place is the line that it begins on, its end a byte of the file", async () => {
    const path = file("places.csv", 'prompt,completion\n\n"ä\nb",c\r\nd,e\n');
    const records = await Array.fromAsync(readCsv(path));
    expect(records.map(({ where, number, end }) => [where, number, end])).toEqual([
      [`${path}:3`, 3, 29],
      [`${path}:5`, 5, 33],
    ]);
  });

  test("faults of a row are told when it is asked for, those of the first row at once", async () => {
    const faults = async (name: string, content: string | Uint8Array) => {
      const records = await Array.fromAsync(readCsv(file(name, content)));
      return records.map(({ json }) => {
        try {
          return JSON.parse(json()) as unknown;
        } catch (error) {
          return (error as Error).message.replace(`${folder}/`, "");
        }
      });
    };
    expect(await faults("a.csv", 'prompt,completion\na\nb,c\nd,"e"f",g\n')).toEqual([
      "a.csv:2: the row has 1 cells, the first row names 2 columns; a cell that holds the delimiter or a line break must be quoted",
      { prompt: "b", completion: "c" },
      'a.csv:4: a quote within a quoted cell must be doubled ("")',
    ]);
    expect(await faults("b.csv", 'prompt,completion\na,"b\nc,d\n')).toEqual([
      "b.csv:2: a quoted cell that begins in this row never ends",
    ]);
    expect(await faults("c.csv", Buffer.from("prompt,completion\ncaf\xe9,b\nc,d\n", "latin1"))).toEqual([
      "c.csv:2: the row is not UTF-8 text; save the file in UTF-8 (iconv -f WINDOWS-1252 -t UTF-8, if a spreadsheet wrote it)",
      { prompt: "c", completion: "d" },
    ]);
    const twice = file("twice.csv", "text,text\na,b\n");
    expect(await rejection(texts(readCsv(twice)))).toBe(
      `${twice}:1: the column "text" is named twice in the first row; rename one`,
    );
    const empty = file("empty.csv", "");
    expect(await rejection(texts(readCsv(empty)))).toBe(
      `${empty}: expected a table whose first row names its columns; the file is empty`,
    );
  });

  test("examples: cells of JSON where a format wants lists, Python's notation refused", async () => {
    const messages = '[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]';
    const cell = (text: string) => `"${text.replaceAll('"', '""')}"`;
    const path = file("chats.csv", `,id,messages\n0,x,${cell(messages)}\n1,y,${cell(messages.replaceAll('"', "'"))}\n`);
    const [first, second] = await Array.fromAsync(readEntries(path));
    expect(first!.parse()).toMatchObject({ kind: "chat", messages: [{ role: "user" }, { role: "assistant", weight: 1 }] });
    expect(userError(() => second!.parse())).toBe(
      `${path}:3: "messages", a text, is a list in Python's notation; write it with json.dumps, as JSON`,
    );
    const alpaca = file("alpaca.csv", "instruction,input,output,text\ndo,,done,### do done\n,x,y,z\n");
    const entries = await Array.fromAsync(readEntries(alpaca));
    expect(entries[0]!.parse()).toMatchObject({ messages: [{ fields: { content: "do" } }, { fields: { content: "done" } }] });
    expect(userError(() => entries[1]!.parse())).toContain("alpaca.csv:3: ");
  });
});

describe("JSON arrays", () => {
  const items = ['{"text":"a, ]"}', '{"text":"\\"[{","deep":[[{"x":[]}]]}', "5", '"text"', "[1,2]", '{"é":"😀\\\\"}', "null"];

  test("items come back with their line whatever the size of the pieces", () => {
    const text = `\ufeff\n [${items.slice(0, 3).join(",\n")} ,\r\n${items.slice(3).join(",")}\n]\n\n`;
    const path = file("items.json", text);
    for (const piece of [1, 2, 3, 5, 4096]) {
      const records = [...readItems(path, piece)];
      expect(records.map(({ json }) => json().trim())).toEqual(items);
      expect(records.map(({ where }) => where.replace(path, ""))).toEqual([
        ":2, item 1",
        ":3, item 2",
        ":4, item 3",
        ":5, item 4",
        ":5, item 5",
        ":5, item 6",
        ":5, item 7",
      ]);
    }
    expect([...readItems(file("none.json", " [ ] "))]).toEqual([]);
  });

  test.each([
    ["[1,,2]", '1: expected an item, got ","'],
    ["[1,\n]", '2: expected an item, got "]"'],
    ["[,1]", '1: expected an item or the array\'s end, got ","'],
    ["[1]\n\n2", '3: expected nothing after the array\'s end, got "2"'],
    ["[1", "1, item 1: the file ends within the item; it is cut short"],
    ['[1,\n{"a": "]', "2, item 2: the file ends within the item; it is cut short"],
    ["[1,", "1: the file ends where an item is expected; it is cut short"],
    ["[", "1: the file ends where an item or the array's end is expected; it is cut short"],
    ["5", "1: expected an array of examples"],
  ])("%j", (text, message) => {
    const path = file("fault.json", text);
    expect(userError(() => [...readItems(path)])).toBe(`${path}:${message}`);
  });

  test("an item that is no JSON or not UTF-8 is an error of its own", async () => {
    const path = file("bad.json", Buffer.from('[{"text":"a"},\n{"text" "b"},{"text":"caf\xe9"},{"text":"c"}]', "latin1"));
    const messages = (await Array.fromAsync(readEntries(path))).map((entry) => {
      try {
        return entry.parse().kind;
      } catch (error) {
        return (error as Error).message.replace(path, "");
      }
    });
    expect(messages).toEqual([
      "text",
      expect.stringMatching(/^:2, item 2 is not valid JSON: /),
      ":2, item 3: the item is not UTF-8 text; save the file in UTF-8",
      "text",
    ]);
  });

  test("a Parquet file is known by its first bytes, whatever its name", async () => {
    const path = join(folder, "renamed.bin");
    copyFileSync(join(golden, "empty.parquet"), path);
    expect(await Array.fromAsync(readExamples(path))).toEqual([]);
    expect(basename(path)).toBe("renamed.bin");
  });
});
