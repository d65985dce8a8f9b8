import type { DataPreview } from "../api/types.ts";
import { fill, h } from "../base/dom.ts";

/** What becomes of a column: it keeps its name, is left out, or gets one of the names that formats read. */
const KEEP = "";
const IGNORE = "ignore";

/** A table by which the columns of a file get the names that are read. */
export function columnsField(onChange: () => void) {
  const chosen = new Map<string, string>();
  const table = h("table", { class: "mapping" });
  const element = h("details", { class: "columns-field", hidden: true }, h("summary", {}, "Columns of other names"), table);
  let shown = "";
  return {
    element,
    /** `prompt=question` for each column that has another name. */
    get value(): string[] {
      return [...chosen].map(([theirs, ours]) => `${ours}=${theirs}`);
    },
    show({ columns, names, rows }: Pick<DataPreview, "columns" | "names" | "rows">) {
      const key = JSON.stringify(columns.map(({ name }) => name));
      element.hidden = columns.length === 0;
      // Where nothing can be read as it stands, the names are probably others.
      if (rows.length > 0 && rows.every(({ error }) => error !== null)) element.open = true;
      if (key === shown) return;
      shown = key;
      chosen.clear();
      fill(
        table,
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            h("th", { scope: "col" }, "Column"),
            h("th", { scope: "col" }, "Begins with"),
            h("th", { scope: "col" }, "Is"),
          ),
        ),
        h("tbody", {}, ...columns.map((column) => rowOf(column, names))),
      );
    },
  };

  function rowOf({ name, value }: DataPreview["columns"][number], names: readonly string[]): HTMLElement {
    const select = h(
      "select",
      {
        "aria-label": `Meaning of the column ${name}`,
        onchange: () => {
          if (select.value === KEEP) chosen.delete(name);
          else chosen.set(name, select.value);
          onChange();
        },
      },
      h("option", { value: KEEP }, "as it is"),
      h("option", { value: IGNORE }, "left out"),
      ...names.filter((each) => each !== name).map((each) => h("option", { value: each }, each)),
    );
    return h("tr", {}, h("th", { scope: "row" }, name), h("td", { class: "muted" }, value.slice(0, 60)), h("td", {}, select));
  }
}
