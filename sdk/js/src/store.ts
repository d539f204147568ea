/** Web Storage that never throws: what it cannot keep stays in memory. Keys are cut to one client's prefix. */
import type { KeyValueStore } from "./types.js";

export interface Store {
  get(key: string): string | null;
  /** Whether the value outlives the page. */
  set(key: string, value: string): boolean;
  remove(key: string): void;
  /** The stored keys that begin with `start`. */
  keys(start: string): string[];
}

export function openStore(given: KeyValueStore | null | undefined, prefix: string): Store {
  const memory = new Map<string, string>();
  // Reading `localStorage` itself throws where a browser forbids it.
  // Node has one too, shared by all programs of a folder: not ours to fill.
  const real = attempt(() => (given === undefined && typeof document !== "undefined" ? localStorage : given));
  return {
    get: (key) => memory.get(key) ?? attempt(() => real?.getItem(prefix + key)) ?? null,
    set(key, value) {
      memory.delete(key);
      const kept = !!real && !!attempt(() => (real.setItem(prefix + key, value), true));
      if (!kept) memory.set(key, value);
      return kept;
    },
    remove(key) {
      memory.delete(key);
      attempt(() => real?.removeItem(prefix + key));
    },
    keys: (start) =>
      attempt(() =>
        Array.from({ length: real!.length }, (_, n) => real!.key(n) ?? "")
          .filter((key) => key.startsWith(prefix + start))
          .map((key) => key.slice(prefix.length)),
      ) ?? [],
  };
}

/** The result, or undefined when it throws: analytics must not break the page that it measures. */
export function attempt<T>(action: () => T): T | undefined {
  try {
    return action();
  } catch {
    return undefined;
  }
}
