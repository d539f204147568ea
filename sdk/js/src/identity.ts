/** Ids: of events, of the device and of the session. No cookies, and nothing taken from the device itself. */
import type { Store } from "./store.js";

const SESSION_IDLE_MS = 30 * 60_000;

/** RFC 9562, version 7: milliseconds, then 74 random bits. */
export function uuid7(now: number): string {
  const time = now.toString(16).padStart(12, "0");
  const random = Array.from(crypto.getRandomValues(new Uint8Array(10)), (byte) => (byte + 256).toString(16).slice(1));
  const text = random.join("");
  const variant = "89ab"[parseInt(text[0]!, 16) & 3];
  return `${time.slice(0, 8)}-${time.slice(8)}-7${text.slice(1, 4)}-${variant}${text.slice(4, 7)}-${text.slice(7, 19)}`;
}

export function deviceId(store: Store, now: number): string {
  let id = store.get("device");
  if (!id) store.set("device", (id = uuid7(now)));
  return id;
}

/** One session lasts until 30 minutes pass without an event, over all tabs of the origin. */
export function sessionId(store: Store, now: number): string {
  let [id, last] = (store.get("session") ?? "").split(" ");
  if (!id || !(Math.abs(now - Number(last)) < SESSION_IDLE_MS)) id = uuid7(now);
  store.set("session", `${id} ${now}`);
  return id;
}
