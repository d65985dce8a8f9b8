/** Something that is shown in the page's main part. */
export interface View {
  readonly title: string;
  readonly element: HTMLElement;
  /** Ends what the view has begun. */
  close?(): void;
}

export type Route = readonly [pattern: RegExp, open: (params: readonly string[], query: URLSearchParams) => View];

/** Shows the view that the address names, in the address's part behind `#`, and the first one where it names none. */
export function startRouter(main: HTMLElement, routes: readonly Route[], onShown: (path: string) => void): void {
  let current: View | null = null;
  const show = (isFirst: boolean) => {
    const [path = "", query = ""] = location.hash.replace(/^#\/?/, "").split("?");
    if (location.hash !== "" && !location.hash.startsWith("#/")) return;
    current?.close?.();
    for (const [pattern, open] of routes) {
      const found = pattern.exec(path);
      if (!found) continue;
      current = open(found.slice(1).map(decodeURIComponent), new URLSearchParams(query));
      break;
    }
    if (current === null) return;
    main.replaceChildren(current.element);
    document.title = `${current.title} · Remat`;
    onShown(path);
    if (isFirst) return;
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  };
  addEventListener("hashchange", () => show(false));
  show(true);
}
