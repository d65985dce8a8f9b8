export type Child = Node | string | number | null | false | undefined;

type Style = Readonly<Record<string, string>>;
type Handler = (event: never) => void;
type Value = string | number | boolean | null | undefined | Style | Handler;

export type Props = Readonly<Record<string, Value>>;

/**
 * Makes an element. A function is the listener of the event that its name says behind `on`, an object is styles (set by script, as the page's
 * security policy wants it), `true` an attribute without a value; what is `false`, null or undefined is left out.
 */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  props: Props = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value as EventListener);
    else if (typeof value === "object")
      for (const [property, text] of Object.entries(value)) element.style.setProperty(property, text);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  append(element, children);
  return element;
}

function append(element: Element, children: readonly Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Gives an element other children. */
export function fill(element: Element, ...children: Child[]): void {
  element.replaceChildren();
  append(element, children);
}

/** Writes a text where it is another one: what a reader has selected stays. */
export function write(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** Sets or removes an attribute. */
export function attribute(element: Element, name: string, value: string | null): void {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

/** A drawing that this page has made itself, as an element. */
export function svgOf(markup: string): Element {
  const { documentElement } = new DOMParser().parseFromString(markup, "image/svg+xml");
  return document.importNode(documentElement, true);
}

/** A list whose rows stay the same elements as long as their keys do, so that focus and selection stay too. */
export function keyedList<T>(
  parent: Element,
  { key, make }: { key(item: T): string; make(item: T): { readonly element: Element; update(item: T): void; close?(): void } },
): (items: readonly T[]) => void {
  const rows = new Map<string, ReturnType<typeof make>>();
  return (items) => {
    const wanted = new Set(items.map(key));
    for (const [id, row] of rows) {
      if (wanted.has(id)) continue;
      row.element.remove();
      row.close?.();
      rows.delete(id);
    }
    items.forEach((item, i) => {
      let row = rows.get(key(item));
      if (row) row.update(item);
      else rows.set(key(item), (row = make(item)));
      if (parent.children[i] !== row.element) parent.insertBefore(row.element, parent.children[i] ?? null);
    });
  };
}
