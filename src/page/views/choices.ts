import { get } from "../api/client.ts";
import type { Model, Page, StoredFile } from "../api/types.ts";
import { fill, h } from "../base/dom.ts";
import { formatBytes } from "../base/format.ts";

/** Shares of the training file that may be held out. */
export const HELD_OUT = ["5%", "10%", "20%"] as const;

/** Fields that choose among what the server has: files to train on and to hold out, models to begin with. */
export function choices(signal: AbortSignal, startModel: string | null, onChange: () => void) {
  const file = h("select", { id: "training-file", onchange: onChange });
  const heldOut = h("select", { id: "held-out", onchange: onChange });
  const model = h("select", { id: "model", onchange: onChange });
  const loadFiles = async (chosen?: string) => {
    const { data } = await get<Page<StoredFile>>("v1/files?purpose=fine-tune&limit=200", signal);
    const options = () =>
      data.map(({ id, filename, bytes }) => h("option", { value: id }, `${filename} (${formatBytes(bytes)})`));
    const [wasFile, wasHeldOut] = [chosen ?? file.value, heldOut.value];
    fill(file, h("option", { value: "" }, data.length === 0 ? "No files yet" : "Choose a file"), ...options());
    fill(
      heldOut,
      h("option", { value: "" }, "None"),
      ...HELD_OUT.map((share) => h("option", { value: share }, `${share} of the file`)),
      ...options(),
    );
    file.value = wasFile;
    heldOut.value = wasHeldOut;
    onChange();
  };
  const loadModels = async () => {
    const { data } = await get<Page<Model>>("v1/models", signal);
    const group = (label: string, models: readonly Model[]) =>
      models.length === 0 ? null : h("optgroup", { label }, ...models.map(({ id }) => h("option", { value: id }, id)));
    fill(
      model,
      group(
        "Base models",
        data.filter(({ parent }) => parent === null),
      ),
      group(
        "Tuned models, to go on from",
        data.filter(({ parent }) => parent !== null),
      ),
    );
    if (startModel !== null) model.value = startModel;
    onChange();
  };
  return { file, heldOut, model, loadFiles, loadModels };
}
