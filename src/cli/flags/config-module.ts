import { defineConfig } from "../../train/config.ts";

let isRegistered = false;

/** The default export of a TypeScript file, which may import `defineConfig` from `remat` wherever the file lies. */
export async function importConfig(file: string): Promise<unknown> {
  if (!isRegistered) {
    Bun.plugin({
      name: "remat",
      setup: (build) => void build.module("remat", () => ({ exports: { defineConfig }, loader: "object" })),
    });
    isRegistered = true;
  }
  return ((await import(file)) as { default?: unknown }).default;
}
