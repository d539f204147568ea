/**
 * What waits for the service's answer. Each event is one stored key, `queue:<tab>:<id>`, removed when it is confirmed:
 * tabs never write each other's keys, so none is lost, and an event that two tabs send counts once by its id.
 */
import { attempt, type Store } from "./store.js";

export interface Item {
  body: string;
  /** In UTF-8, with the comma behind it. */
  bytes: number;
  key: string;
  /** Outlives the page. */
  kept: boolean;
  /** In a request at the moment. */
  busy?: boolean;
  /** Confirmed or dropped. */
  gone?: boolean;
}

const QUEUE = "queue:";
export const byteLength = (text: string): number => new TextEncoder().encode(text).length;

export function openQueue(store: Store, tab: string, name: string, max: number) {
  let items: Item[] = [];
  let release: (() => void) | undefined;
  const push = (key: string, body: string, kept: boolean): void => {
    items.push({ key, body, kept, bytes: byteLength(body) + 1 });
  };

  return {
    all: () => items,
    full: () => items.length >= max,
    add(id: string, body: string): void {
      const key = `${QUEUE}${tab}:${id}`;
      push(key, body, store.set(key, body));
    },
    /** The oldest that no request holds, up to a number and a sum of bytes; at least one. */
    take(count: number, bytes: number): Item[] {
      const batch: Item[] = [];
      for (const item of items) {
        if (item.busy) continue;
        bytes -= item.bytes;
        if (batch.length >= count || (bytes < 0 && batch.length)) break;
        batch.push(item);
      }
      return batch;
    },
    remove(batch: Item[]): void {
      for (const item of batch) {
        item.gone = true;
        store.remove(item.key);
      }
      items = items.filter((item) => !item.gone);
    },
    /** Holds a lock that says this tab lives. Given back while the page is in the back/forward cache. */
    live(): void {
      attempt(
        () =>
          void navigator.locks.request(name + tab, () => new Promise<void>((done) => (release = done))).catch(() => {}),
      );
    },
    leave: () => release?.(),
    /** Takes over what tabs left behind that no longer live; without locks, what every other tab has waiting. */
    async adopt(): Promise<void> {
      const found = store.keys(QUEUE).sort();
      if (!found.length) return;
      const held = await Promise.resolve(attempt(() => navigator.locks.query())).catch(() => undefined);
      const known = new Set(held?.held?.map((lock) => lock.name));
      items.forEach((item) => known.add(item.key));
      for (const key of found) {
        const owner = key.split(":")[1]!;
        const body = store.get(key);
        if (body && !known.has(key) && !known.has(name + owner) && items.length < max)
          push(key, body, true);
      }
    },
    clear(): void {
      this.remove(items);
      store.keys(QUEUE).forEach(store.remove);
    },
  };
}

export type Queue = ReturnType<typeof openQueue>;
