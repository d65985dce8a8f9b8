/**
 * What is known of other systems' flags and files. It is loaded when something is unknown here: most starts need none of its tables. Errors are made
 * where nothing can wait, so this is no `import()`.
 */
export function elsewhere() {
  return require("./other-systems.ts") as typeof import("./other-systems.ts");
}
