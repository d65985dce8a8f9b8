import { h, write } from "./dom.ts";

const KEY = "remat-theme";
const THEMES = ["system", "light", "dark"] as const;
type Theme = (typeof THEMES)[number];

const SIGNS: Readonly<Record<Theme, string>> = { system: "◐", light: "☀", dark: "☾" };

const listeners = new Set<() => void>();

/** Calls back when colours have changed; returns what ends that. */
export function watchTheme(onChange: () => void): () => void {
  listeners.add(onChange);
  return () => void listeners.delete(onChange);
}

function stored(): Theme {
  const value = localStorage.getItem(KEY) as Theme | null;
  return value !== null && THEMES.includes(value) ? value : "system";
}

function apply(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
  for (const tell of listeners) tell();
}

/** Makes the switch of colours: as the system says, light, dark. */
export function themeSwitch(): HTMLElement {
  let theme = stored();
  const button = h("button", { class: "quiet icon", type: "button", onclick: () => show(next()) });
  const next = () => THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length]!;
  const show = (chosen: Theme) => {
    theme = chosen;
    if (theme === "system") localStorage.removeItem(KEY);
    else localStorage.setItem(KEY, theme);
    write(button, SIGNS[theme]);
    const label = `Colours: ${theme}`;
    button.setAttribute("aria-label", label);
    button.title = label;
    apply(theme);
  };
  show(theme);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => apply(theme));
  return button;
}
