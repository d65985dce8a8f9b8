import { addressOf, keyHeaders, Problem } from "../api/client.ts";
import type { StoredFile } from "../api/types.ts";
import { h, write } from "../base/dom.ts";
import { formatBytes } from "../base/format.ts";

/** Uploads a file, and tells how far it is. `fetch` does not tell that. @throws {Problem} */
function upload(file: File, onProgress: (share: number) => void): Promise<StoredFile> {
  const form = new FormData();
  form.set("purpose", "fine-tune");
  form.set("file", file, file.name);
  return new Promise((done, fail) => {
    const request = new XMLHttpRequest();
    request.open("POST", addressOf("v1/files"));
    for (const [name, value] of Object.entries(keyHeaders())) request.setRequestHeader(name, value);
    request.responseType = "json";
    request.upload.addEventListener("progress", ({ loaded, total }) => onProgress(total > 0 ? loaded / total : 0));
    request.addEventListener("error", () => fail(new Problem("the server does not answer", null)));
    request.addEventListener("load", () => {
      const answer = request.response as (StoredFile & { readonly error?: { readonly message: string } }) | null;
      if (request.status === 200 && answer) done(answer);
      else fail(new Problem(answer?.error?.message ?? `the server answered with ${request.status}`, request.status));
    });
    request.send(form);
  });
}

/** A field that takes a file by a click, by a key, or dropped onto it. */
export function uploadField(onUploaded: (file: StoredFile) => void): HTMLElement {
  const hint = "A .jsonl, .json, .csv or .parquet file";
  const text = h("span", { class: "muted", role: "status" }, hint);
  const level = h("i");
  const bar = h("span", { class: "bar", hidden: true }, level);
  const input = h("input", { type: "file", id: "file", class: "unseen", accept: ".jsonl,.json,.csv,.tsv,.parquet" });
  const field = h("label", { class: "drop", for: "file" }, h("b", {}, "Drop a file here, or choose one"), text, bar, input);
  const take = async (file: File | undefined) => {
    if (!file) return;
    bar.hidden = false;
    field.classList.remove("failed");
    write(text, `${file.name}, ${formatBytes(file.size)}`);
    try {
      const stored = await upload(file, (share) => (level.style.width = `${100 * share}%`));
      write(text, `${file.name} is uploaded`);
      onUploaded(stored);
    } catch (error) {
      field.classList.add("failed");
      write(text, error instanceof Problem ? error.message : String(error));
    } finally {
      bar.hidden = true;
      level.style.width = "0";
      input.value = "";
    }
  };
  input.addEventListener("change", () => void take(input.files?.[0]));
  field.addEventListener("dragover", (event) => {
    event.preventDefault();
    field.classList.add("over");
  });
  field.addEventListener("dragleave", () => field.classList.remove("over"));
  field.addEventListener("drop", (event) => {
    event.preventDefault();
    field.classList.remove("over");
    void take(event.dataTransfer?.files[0]);
  });
  return field;
}
