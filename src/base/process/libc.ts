import { dlopen, type FFIFunction } from "bun:ffi";

/** Names of the C library, by system. */
const LIBRARIES: Readonly<Record<string, readonly string[]>> = {
  linux: ["libc.so.6", "libc.musl-x86_64.so.1", "libc.musl-aarch64.so.1"],
  darwin: ["libSystem.B.dylib"],
};

/** Functions of the C library; null where there is none of these, as on Windows. */
export function openLibc<T extends Record<string, FFIFunction>>(functions: T): ReturnType<typeof dlopen<T>>["symbols"] | null {
  for (const library of LIBRARIES[process.platform] ?? []) {
    try {
      return dlopen(library, functions).symbols;
    } catch {
      // Another C library.
    }
  }
  return null;
}
