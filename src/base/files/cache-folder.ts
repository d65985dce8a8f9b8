import { homedir } from "node:os";
import { join } from "node:path";

/** Where caches are kept: `REMAT_CACHE`, or the user's cache folder. */
export function cacheFolder(): string {
  const { REMAT_CACHE: own, XDG_CACHE_HOME: general } = process.env;
  return own || join(general || join(homedir(), ".cache"), "remat");
}
