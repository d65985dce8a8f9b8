import { expect, test } from "bun:test";
import { readForm } from "../../../src/serve/home/multipart.ts";

/** A request whose body comes in pieces of a size. */
function requestOf(body: Uint8Array, size: number, boundary = "x-y"): Request {
  const stream = new ReadableStream<Uint8Array>({
    start(controller) {
      for (let at = 0; at < body.length; at += size) controller.enqueue(body.slice(at, at + size));
      controller.close();
    },
  });
  const headers = { "content-type": `multipart/form-data; boundary=${boundary}` };
  return new Request("http://localhost/", { method: "POST", body: stream, headers });
}

async function read(request: Request): Promise<[name: string, filename: string | null, text: string][]> {
  const parts: [string, string | null, string][] = [];
  let open = false;
  await readForm(request, {
    begin(name, filename) {
      expect(open).toBe(false);
      open = true;
      parts.push([name, filename, ""]);
    },
    write: (piece) => void (parts.at(-1)![2] += Buffer.from(piece).toString("latin1")),
    end: () => void (open = false),
  });
  expect(open).toBe(false);
  return parts;
}

const body = [
  "a preamble\r\n--x-y\r\n",
  'Content-Disposition: form-data; name="purpose"\r\n\r\nfine-tune\r\n--x-y\r\n',
  'content-disposition: form-data; name="file"; filename="my \\"words\\".jsonl"\r\ncontent-type: text/plain\r\n\r\n',
  "one\r\n--x-\r\n\r\n--x\r\n\x00\xff\r\n--x-y--\r\nan epilogue",
].join("");
const parts: [string, string | null, string][] = [
  ["purpose", null, "fine-tune"],
  ["file", 'my "words".jsonl', "one\r\n--x-\r\n\r\n--x\r\n\x00\xff"],
];

test("a form is read whatever the pieces that it comes in", async () => {
  const bytes = Buffer.from(body, "latin1");
  for (let size = 1; size <= bytes.length; size++) expect([size, await read(requestOf(bytes, size))]).toEqual([size, parts]);
});

test("a form of a browser's kind is read", async () => {
  const form = new FormData();
  form.set("purpose", "fine-tune");
  form.set("file", new Blob(["ü\n"]), "a b.jsonl");
  const request = new Request("http://localhost/", { method: "POST", body: form });
  expect(await read(request)).toEqual([
    ["purpose", null, "fine-tune"],
    ["file", "a b.jsonl", Buffer.from("ü\n").toString("latin1")],
  ]);
});

test("whatever is cut off or garbled is refused, and nothing is read past its end", async () => {
  const bytes = Buffer.from(body, "latin1");
  const end = bytes.indexOf("--x-y--") + "--x-y--".length;
  for (let length = 0; length < end; length++) {
    const error = await read(requestOf(bytes.subarray(0, length), 7)).catch((cause: unknown) => cause);
    expect([length, error]).toMatchObject([length, { status: 400, code: "invalid_form" }]);
  }
  const nameless = "--x-y\r\ncontent-disposition: form-data\r\n\r\nx\r\n--x-y--";
  expect(await read(requestOf(Buffer.from(nameless), 5)).catch((cause: unknown) => cause)).toMatchObject({ status: 400 });
  const endless = `--x-y\r\n${"a".repeat(20_000)}`;
  expect(await read(requestOf(Buffer.from(endless), 5000)).catch((cause: unknown) => cause)).toMatchObject({ status: 400 });
});
